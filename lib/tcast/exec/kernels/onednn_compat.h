#pragma once

#include <algorithm>
#include <string>

#include <oneapi/dnnl/dnnl.hpp>

// Every difference between oneDNN 2.x (Debian 12 has 2.6.3) and 3.x that we meet: the only file
// that asks for the version.

namespace tcast::onednn {

/// Primitive descriptor of a matrix product; `bias` may be a zero descriptor. Throws dnnl::error.
inline dnnl::matmul::primitive_desc matmul_desc(const dnnl::engine& engine,
                                                const dnnl::primitive_attr& attr,
                                                const dnnl::memory::desc& src,
                                                const dnnl::memory::desc& weights,
                                                const dnnl::memory::desc& bias,
                                                const dnnl::memory::desc& dst) {
#if DNNL_VERSION_MAJOR >= 3
  if (bias.is_zero()) return {engine, src, weights, dst, attr};
  return {engine, src, weights, bias, dst, attr};
#else
  if (bias.is_zero()) return {{src, weights, dst}, attr, engine};
  return {{src, weights, bias, dst}, attr, engine};
#endif
}

/// A text that is equal for equal layouts and only for them.
inline std::string layout_key(const dnnl::memory::desc& desc) {
  std::string key;
  const auto add = [&key](auto value) {
    key += std::to_string(static_cast<long long>(value)) + ",";
  };
#if DNNL_VERSION_MAJOR >= 3
  const dnnl::memory::desc& d = desc;
  add(d.get_data_type());
  for (const auto dim : d.get_dims()) add(dim);
  for (const auto stride : d.get_strides()) add(stride);
  for (const auto block : d.get_inner_blks()) add(block);
  for (const auto index : d.get_inner_idxs()) add(index);
#else
  const dnnl_memory_desc_t& d = desc.data;
  add(d.data_type);
  add(d.extra.flags);
  const dnnl_blocking_desc_t& blocking = d.format_desc.blocking;
  for (int i = 0; i < d.ndims; ++i) {
    add(d.dims[i]);
    add(blocking.strides[i]);
  }
  for (int i = 0; i < blocking.inner_nblks; ++i) {
    add(blocking.inner_blks[i]);
    add(blocking.inner_idxs[i]);
  }
#endif
  add(desc.get_size());
  return key;
}

/// True when a matrix [k, n] lies in blocks of 64 columns, one after the other, in each of them row
/// after row with `pair` neighbouring rows interleaved: what the BRGEMM implementations like.
/// `rows` receives k as padded.
inline bool is_column_blocked(const dnnl::memory::desc& desc, std::int64_t pair,
                              std::int64_t& rows) {
  const std::int64_t blocks[] = {16, 64, pair};
  const int indices[] = {0, 1, 0};
  const int count = pair > 1 ? 3 : 2;
#if DNNL_VERSION_MAJOR >= 3
  if (desc.get_ndims() != 2 || static_cast<int>(desc.get_inner_blks().size()) != count)
    return false;
  for (int i = 0; i < count; ++i) {
    const auto at = static_cast<std::size_t>(i);
    if (desc.get_inner_blks()[at] != blocks[i] || desc.get_inner_idxs()[at] != indices[i]) {
      return false;
    }
  }
  rows = desc.get_padded_dims()[0];
  return desc.get_strides()[0] == 16 * 64 * pair && desc.get_strides()[1] == rows * 64;
#else
  const dnnl_memory_desc_t& d = desc.data;
  const dnnl_blocking_desc_t& blocking = d.format_desc.blocking;
  if (d.ndims != 2 || d.extra.flags != 0 || blocking.inner_nblks != count) return false;
  for (int i = 0; i < count; ++i) {
    if (blocking.inner_blks[i] != blocks[i] || blocking.inner_idxs[i] != indices[i]) return false;
  }
  rows = d.padded_dims[0];
  return blocking.strides[0] == std::int64_t{16} * 64 * pair && blocking.strides[1] == rows * 64;
#endif
}

}  // namespace tcast::onednn
