// std::format, compiled once. The standard library's is a template that every file using it would compile again.
#pragma once

#include <format>
#include <string>
#include <string_view>
#include <utility>

namespace caravan {

std::string format_with(std::string_view format, std::format_args args);

template <class... Args>
std::string formatted(std::format_string<Args...> format, Args &&... args) {
    return format_with(format.get(), std::make_format_args(args...));
}

}  // namespace caravan
