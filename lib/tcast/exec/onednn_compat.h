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

}  // namespace tcast::onednn
