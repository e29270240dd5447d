// The guest's init program: init.c sets up the machine, then agent.c runs commands for the host.
#pragma once

// Writes a line to the kernel's log and so to the console, with the text of errno unless that is 0.
void report(const char *what, const char *which);

// Runs as process 1 and does not return. fd is the line to the host, raw and blocking.
_Noreturn void agent(int fd);
