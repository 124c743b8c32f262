//! Kubernetes objects without IO: what each kind is, and every rule about it.
//!
//! A kind's rules (names, defaults, validation, update rules, table columns, selectable fields, subresources) are said
//! once, in its module under [`kinds`], and read through the [`kind::Kind`] trait by everything else: REST, discovery,
//! OpenAPI, tables, patches.
//!
//! Objects are `serde_json::Value`s at this seam (unknown members are gone after [`kind::Kind::check`]). The shape of
//! the types (field names, numbers, merge keys) is a table of data: [`schema`].

#![forbid(unsafe_code)]

pub mod apiextensions;
pub mod cursor;
pub mod decode;
pub mod duration;
pub mod field;
pub mod kind;
pub mod kinds;
pub mod meta;
pub mod names;
pub mod openapi;
pub mod owners;
pub mod patch;
pub mod protobuf;
pub mod quantity;
pub mod quota;
pub mod schema;
pub mod selector;
pub mod status;
pub mod table;
pub mod validate;
