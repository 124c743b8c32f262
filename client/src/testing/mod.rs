//! An apiserver in memory, for tests.
