//! What a container finds around it: variables, files of the agent, identity and limits.

pub mod expand;
pub mod fields;
pub mod files;
pub mod registry_auth;
pub mod resources;
pub mod security;
pub mod services;
pub mod vars;
