// The guest's first program: init.c makes the machine, agent.c then runs the commands that the host asks for.
#pragma once

// A line in the kernel's log, hence on the console that the host keeps. Says errno when it is not 0.
void say(const char *what, const char *which);

// Runs as process 1, for ever. fd is the line to the host, raw and blocking.
_Noreturn void agent(int fd);
