//! Stories and properties of the planner.
