// Makes text from a peer, a file or a file name safe for a log line, a terminal or a page.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace caravan {

// Returns `text` as one line of valid UTF-8 that cannot control a terminal or forge another line. Replaces control
// characters (C0, DEL, C1), line and paragraph separators, characters that change the text direction, and bytes that are
// not valid UTF-8 by '?'. The result has at most `max` bytes: a longer text is cut between characters and ends in "...".
std::string printable(std::string_view text, size_t max = 256);

}  // namespace caravan
