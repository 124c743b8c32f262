//! Custom resources through the whole apiserver.
