// A Markdown table with aligned columns, as llama-bench prints it.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace caravan::bench {

class Table {
public:
    void add_column(std::string header, bool right_aligned);
    // `cells` has one entry for each column.
    void add_row(std::vector<std::string> cells);
    std::string text() const;

private:
    struct Column {
        std::string header;
        bool right_aligned;
    };
    std::vector<Column> columns_;
    std::vector<std::vector<std::string>> rows_;
};

// "64 B", "16 KiB", "5.33 MiB".
std::string size_text(uint64_t bytes);

}  // namespace caravan::bench
