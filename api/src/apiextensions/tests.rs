//! Custom resources as tables of cases.

