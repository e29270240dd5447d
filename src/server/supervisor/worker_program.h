// The program caravan-worker, which serves sessions and indexes model files. The supervisor executes it and loads none of ggml
// itself.
#pragma once

#include <string>

#include "base/error.h"
#include "platform/unique_fd.h"

namespace caravan::server {

class WorkerProgram {
public:
    // Opens the program's file: beside the file of this program (a build folder), or in the folder for it below the same prefix
    // (an installation). Errc::not_found if it is in neither.
    static Result<WorkerProgram> open();

    // A path by which this process and its children execute the file that open() found, even if an upgrade has replaced it.
    std::string path() const;

    // Executes `command` and returns what it prints. Errc::unavailable if it cannot be executed or fails, Errc::timed_out if
    // it does not end in 10 s.
    Result<std::string> output_of(const char * command) const;
    // Executes `command` in place of this process. Returns only on failure.
    Error become(const char * command) const;

private:
    explicit WorkerProgram(UniqueFd file) : file_(std::move(file)) {}

    UniqueFd file_;
};

}  // namespace caravan::server
