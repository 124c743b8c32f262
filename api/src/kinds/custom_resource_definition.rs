//! CustomResourceDefinition: the kind whose objects make kinds. Its rules are in [`crate::apiextensions`].

use super::definition::{Definition, PLAIN, names, status_of};
use crate::apiextensions::definition;

pub(super) static CUSTOM_RESOURCE_DEFINITION: Definition = Definition {
    names: names!("apiextensions.k8s.io", "v1", "CustomResourceDefinition", "customresourcedefinitions", "customresourcedefinition",
        ["crd", "crds"], ["api-extensions"]),
    namespaced: false,
    subresources: &[status_of("apiextensions.k8s.io", "v1", "CustomResourceDefinition")],
    generation: true,
    status: true,
    unconditional_update: false,
    default: definition::default,
    prepare_create: definition::prepare_create,
    prepare_update: definition::prepare_update,
    validate_create_only: definition::validate_create,
    validate_update: definition::validate_update,
    warnings: definition::warnings,
    ..PLAIN
};
