//! Kubernetes objects without IO: what each kind is, and every rule about it.
//!
//! A kind's rules (names, defaults, validation, update rules, table columns, selectable fields, subresources) are said
//! once, in its module under [`kinds`], and read through the [`kind::Kind`] trait by everything else: REST, discovery,
//! OpenAPI, tables, patches.
//!
//! Objects are `serde_json::Value`s at this seam (unknown members are gone after [`kind::Kind::check`]) and
//! `k8s-openapi` structs inside the rules.

#![forbid(unsafe_code)]

pub mod field;
pub mod kind;
pub mod meta;
pub mod status;
