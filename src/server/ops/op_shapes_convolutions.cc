// Convolutions and pooling.
#include "server/ops/op_shape_terms.h"

namespace caravan::server::shapes {
namespace {

// Stride, padding and dilation along one dimension.
struct Steps {
    int32_t stride, padding, dilation;
    bool valid() const { return stride >= 1 && padding >= 0 && dilation >= 1; }
    // The number of kernel positions, rounded as in ggml.
    Wide count(int64_t image, int64_t kernel) const {
        return (Wide{image} + 2 * Wide{padding} - Wide{dilation} * (kernel - 1) - 1) / stride + 1;
    }
};
Steps steps(const Tensor & node, int stride, int padding, int dilation) {
    return {parameter(node, stride), parameter(node, padding), parameter(node, dilation)};
}

// Checks that IM2COL with the parameters of `node` produces `columns` from `image`.
Violation columns_of(const Tensor & columns, const Tensor & kernel, const Tensor & image, const Tensor & node) {
    const Steps x = steps(node, 0, 2, 4), y = steps(node, 1, 3, 5);
    const bool has_planes = parameter(node, 6) == 1;
    if (!x.valid() || (has_planes && !y.valid())) {
        return bad_parameter;
    }
    const Wide across = x.count(image.ne[0], kernel.ne[0]);
    if (!has_planes) {
        if (image.ne[1] != kernel.ne[1] || image.ne[3] != 1 || across < 1) {
            return mismatched_sources;
        }
        return expect(columns, Wide{kernel.ne[0]} * kernel.ne[1], across, image.ne[2], 1);
    }
    const Wide down = y.count(image.ne[1], kernel.ne[1]);
    if (image.ne[2] != kernel.ne[2] || across < 1 || down < 1) {
        return mismatched_sources;
    }
    return expect(columns, Wide{kernel.ne[0]} * kernel.ne[1] * kernel.ne[2], across, down, image.ne[3]);
}

// Checks the size of a pooled dimension. POOL_2D's padding may be a fraction; its parameters keep the integer part only.
bool pooled(int64_t result, int64_t size, int32_t window, int32_t stride, int32_t padding, bool may_be_fraction) {
    const Wide room = Wide{size} + 2 * Wide{padding} - window;
    return result == room / stride + 1 || (may_be_fraction && result == (room + 1) / stride + 1);
}

Violation planes_pooled(const Tensor & pools, const Tensor & image, const Tensor & node) {
    const int32_t kind = parameter(node, 0), k0 = parameter(node, 1), k1 = parameter(node, 2),
                  s0 = parameter(node, 3), s1 = parameter(node, 4), p0 = parameter(node, 5), p1 = parameter(node, 6);
    if (kind < 0 || kind >= GGML_OP_POOL_COUNT || k0 < 1 || k1 < 1 || s0 < 1 || s1 < 1 || p0 < 0 || p1 < 0) {
        return bad_parameter;
    }
    const bool fits = pools.ne[0] > 0 && pools.ne[1] > 0 && pooled(pools.ne[0], image.ne[0], k0, s0, p0, true) &&
                      pooled(pools.ne[1], image.ne[1], k1, s1, p1, true) && pools.ne[2] == image.ne[2] &&
                      pools.ne[3] == image.ne[3];
    return fits ? nullptr : wrong_shape;
}

}  // namespace

Violation im2col(const Tensor & node) { return columns_of(node, source(node, 0), source(node, 1), node); }

// The result is the gradient of the image.
Violation im2col_back(const Tensor & node) { return columns_of(source(node, 0), source(node, 1), node, node); }

Violation im2col_3d(const Tensor & node) {
    const Tensor &kernel = source(node, 0), &image = source(node, 1);
    const Steps x = steps(node, 0, 3, 6), y = steps(node, 1, 4, 7), z = steps(node, 2, 5, 8);
    const int32_t channels = parameter(node, 9);
    if (!x.valid() || !y.valid() || !z.valid() || channels < 1) {
        return bad_parameter;
    }
    const Wide across = x.count(image.ne[0], kernel.ne[0]), down = y.count(image.ne[1], kernel.ne[1]),
               deep = z.count(image.ne[2], kernel.ne[2]);
    if (across < 1 || down < 1 || deep < 1) {
        return mismatched_sources;
    }
    return expect(node, Wide{kernel.ne[0]} * kernel.ne[1] * kernel.ne[2] * channels, across, down,
                  deep * (image.ne[3] / channels));
}

Violation col2im(const Tensor & node) {
    const Tensor & columns = source(node, 0);
    const int32_t stride = parameter(node, 0), channels = parameter(node, 1), padding = parameter(node, 2);
    if (stride < 1 || channels < 1 || padding < 0) {
        return bad_parameter;
    }
    const int64_t window = columns.ne[0] / channels;
    if (columns.ne[0] % channels != 0 || window < 1 || columns.ne[2] != 1 || columns.ne[3] != 1) {
        return mismatched_sources;
    }
    if (!ggml_is_contiguous(&columns)) {
        return bad_layout;
    }
    return expect(node, (Wide{columns.ne[1]} - 1) * stride + window - 2 * Wide{padding}, channels, 1, 1);
}

Violation conv_2d(const Tensor & node) {
    const Tensor &kernel = source(node, 0), &image = source(node, 1);
    const Steps x = steps(node, 0, 2, 4), y = steps(node, 1, 3, 5);
    if (!x.valid() || !y.valid()) {
        return bad_parameter;
    }
    if (kernel.ne[2] != image.ne[2]) {
        return mismatched_sources;
    }
    return expect(node, x.count(image.ne[0], kernel.ne[0]), y.count(image.ne[1], kernel.ne[1]), kernel.ne[3],
                  image.ne[3]);
}

// Each channel has a kernel. The result has its channels innermost if the image has.
Violation conv_2d_dw(const Tensor & node) {
    const Tensor &kernel = source(node, 0), &image = source(node, 1);
    const Steps x = steps(node, 0, 2, 4), y = steps(node, 1, 3, 5);
    if (!x.valid() || !y.valid()) {
        return bad_parameter;
    }
    if (kernel.ne[2] != 1 || kernel.ne[3] != image.ne[2]) {
        return mismatched_sources;
    }
    if (!ggml_is_contiguous(&node) && !(ggml_is_contiguous_channels(&image) && ggml_is_contiguous_channels(&node))) {
        return bad_layout;
    }
    return expect(node, x.count(image.ne[0], kernel.ne[0]), y.count(image.ne[1], kernel.ne[1]), image.ne[2],
                  image.ne[3]);
}

Violation conv_3d(const Tensor & node) {
    const Tensor &kernel = source(node, 0), &image = source(node, 1);
    const Steps x = steps(node, 0, 3, 6), y = steps(node, 1, 4, 7), z = steps(node, 2, 5, 8);
    const int32_t channels = parameter(node, 9), images = parameter(node, 10), kernels = parameter(node, 11);
    if (!x.valid() || !y.valid() || !z.valid() || channels < 1 || images < 0 || kernels < 0) {
        return bad_parameter;
    }
    if (kernel.ne[3] != Wide{channels} * kernels || image.ne[3] != Wide{channels} * images) {
        return mismatched_sources;
    }
    return expect(node, x.count(image.ne[0], kernel.ne[0]), y.count(image.ne[1], kernel.ne[1]),
                  z.count(image.ne[2], kernel.ne[2]), Wide{kernels} * images);
}

Violation conv_transpose_1d(const Tensor & node) {
    const Tensor &kernel = source(node, 0), &line = source(node, 1);
    const int32_t stride = parameter(node, 0);
    if (stride < 1 || parameter(node, 1) != 0 || parameter(node, 2) != 1) {
        return bad_parameter;
    }
    if (kernel.ne[2] != line.ne[1] || kernel.ne[3] != 1 || line.ne[2] != 1 || line.ne[3] != 1) {
        return mismatched_sources;
    }
    return expect(node, (Wide{line.ne[0]} - 1) * stride + kernel.ne[0], kernel.ne[1], 1, 1);
}

Violation conv_transpose_2d(const Tensor & node) {
    const Tensor &kernel = source(node, 0), &image = source(node, 1);
    const int32_t stride = parameter(node, 0);
    if (stride < 1) {
        return bad_parameter;
    }
    if (kernel.ne[3] != image.ne[2]) {
        return mismatched_sources;
    }
    return expect(node, (Wide{image.ne[0]} - 1) * stride + kernel.ne[0],
                  (Wide{image.ne[1]} - 1) * stride + kernel.ne[1], kernel.ne[2], image.ne[3]);
}

Violation pool_1d(const Tensor & node) {
    const Tensor & a = source(node, 0);
    const int32_t kind = parameter(node, 0), window = parameter(node, 1), stride = parameter(node, 2),
                  padding = parameter(node, 3);
    if (kind < 0 || kind >= GGML_OP_POOL_COUNT || window < 1 || stride < 1 || padding < 0) {
        return bad_parameter;
    }
    if (node.ne[0] < 1 || !pooled(node.ne[0], a.ne[0], window, stride, padding, false)) {
        return wrong_shape;
    }
    return expect(node, node.ne[0], a.ne[1], a.ne[2], a.ne[3]);
}

Violation pool_2d(const Tensor & node) { return planes_pooled(node, source(node, 0), node); }

// Source 0 is the gradient of the pooled result, source 1 the pooled tensor.
Violation pool_2d_back(const Tensor & node) {
    if (const Violation pools = planes_pooled(source(node, 0), source(node, 1), node)) {
        return pools == wrong_shape ? mismatched_sources : pools;
    }
    return same_shape(node, source(node, 1)) ? nullptr : wrong_shape;
}

}  // namespace caravan::server::shapes
