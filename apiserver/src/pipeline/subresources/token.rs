//! serviceaccounts/token: a signed token for a ServiceAccount, bound to a pod, node or secret where asked.

use balsa_api::field::FieldError;
use balsa_api::meta::GroupVersionKind;
use balsa_api::status::{ApiError, ApiResult};
use serde_json::{Value, json};

use crate::admission::{Operation, Review, hooks};
use crate::authn::token::{Bound, Subject};
use crate::pipeline::{Api, Call, Target};
use crate::value;

/// The shortest life of a token, seconds.
const MIN_SECONDS: i64 = 600;
/// The longest.
const MAX_SECONDS: i64 = 1 << 32;
/// What the projected volume of every pod asks for; such tokens outlive their refresh by far.
const POD_SECONDS: i64 = 3607;
/// How long those live.
const POD_REAL_SECONDS: i64 = 365 * 24 * 3600;

impl Api {
    /// Answers a TokenRequest.
    pub async fn request_token(&self, call: &Call, target: Target<'_>, request: &Value) -> ApiResult<Value> {
        let account = self.lookup(target).await?.ok_or_else(|| target.not_found())?.value;
        let review = Review { call, target, operation: Operation::Create, subresource: "token", old: None };
        let request = &hooks::post(self, &review, request.clone()).await?;
        let seconds = request.pointer("/spec/expirationSeconds").and_then(Value::as_i64).unwrap_or(3600);
        self.check_request(target, seconds)?;
        crate::admission::node_restriction::admit_token(self, call, target, request).await?;
        let bound = self.bound_object(target, request.pointer("/spec/boundObjectRef").unwrap_or(&Value::Null)).await?;
        let mut audiences = value::strings(request, "/spec/audiences");
        if audiences.is_empty() {
            audiences.push(self.signer.issuer().to_owned());
        }
        let is_pod_token = seconds == POD_SECONDS && bound.pod.is_some();
        let life = if is_pod_token { POD_REAL_SECONDS } else { seconds };
        let subject = Subject {
            namespace: target.namespace.to_owned(),
            name: target.name.to_owned(),
            uid: value::uid(&account).to_owned(),
            bound,
            warn_after: is_pod_token.then_some(seconds),
        };
        let now = call.now.as_second();
        let token = self.signer.sign(&subject, &audiences, now, life).map_err(ApiError::internal)?;
        let mut answer = request.clone();
        value::set_type_to(&mut answer, "authentication.k8s.io/v1", "TokenRequest");
        let metadata = value::metadata(&mut answer);
        metadata.insert("name".to_owned(), json!(target.name));
        metadata.insert("namespace".to_owned(), json!(target.namespace));
        metadata.insert("creationTimestamp".to_owned(), json!(value::timestamp(call.now)));
        let spec = value::member(&mut answer, "spec");
        spec.insert("audiences".to_owned(), json!(audiences));
        spec.insert("expirationSeconds".to_owned(), json!(seconds));
        let expires = value::timestamp(value::seconds_after(call.now, life));
        answer["status"] = json!({"token": token, "expirationTimestamp": expires});
        Ok(answer)
    }

    fn check_request(&self, target: Target<'_>, seconds: i64) -> ApiResult<()> {
        let detail = match seconds {
            ..MIN_SECONDS => "may not specify a duration less than 10 minutes",
            MAX_SECONDS.. => "may not specify a duration larger than 2^32 seconds",
            _ => return Ok(()),
        };
        let finding = FieldError::invalid("spec.expirationSeconds", seconds, detail);
        let kind = GroupVersionKind::new("authentication.k8s.io", "v1", "TokenRequest");
        Err(ApiError::invalid(&kind, target.name, &[finding]))
    }

    async fn bound_object(&self, target: Target<'_>, reference: &Value) -> ApiResult<Bound> {
        let mut bound = Bound::default();
        if !reference.is_object() {
            return Ok(bound);
        }
        let (kind_name, name) = (value::text(reference, "/kind"), value::text(reference, "/name"));
        let (plural, namespace) = match kind_name {
            "Pod" => ("pods", target.namespace),
            "Secret" => ("secrets", target.namespace),
            "Node" => ("nodes", ""),
            other => {
                return Err(ApiError::bad_request(format!(
                    "cannot bind token for serviceaccount \"{}\" to object of type v1/{other}: only Pod, Secret and Node",
                    target.name
                )));
            }
        };
        let kind = balsa_api::kinds::find("", "v1", plural).ok_or_else(ApiError::no_such_path)?;
        let object_target = Target { kind, namespace, name };
        let object = self.lookup(object_target).await?.ok_or_else(|| object_target.not_found())?.value;
        let uid = value::uid(&object).to_owned();
        let wanted = value::text(reference, "/uid");
        if !wanted.is_empty() && wanted != uid {
            let detail = format!("the UID in the bound object reference ({wanted}) does not match the UID in record. The object might have been deleted and then recreated");
            return Err(ApiError::conflict(&kind.gvr(), name, &detail));
        }
        let named = Some((name.to_owned(), uid));
        match plural {
            "pods" => {
                let account = value::text(&object, "/spec/serviceAccountName");
                if account != target.name {
                    return Err(ApiError::bad_request(format!(
                        "cannot bind token for serviceaccount \"{}\" to pod running with different serviceaccount name.",
                        target.name
                    )));
                }
                let node = value::text(&object, "/spec/nodeName");
                if !node.is_empty() {
                    bound.node = Some((node.to_owned(), self.node_uid(node).await?));
                }
                bound.pod = named;
            }
            "secrets" => bound.secret = named,
            _ => bound.node = named,
        }
        Ok(bound)
    }

    async fn node_uid(&self, name: &str) -> ApiResult<String> {
        let Some(kind) = balsa_api::kinds::find("", "v1", "nodes") else { return Ok(String::new()) };
        let node = self.lookup(Target { kind, namespace: "", name }).await?;
        Ok(node.map(|node| value::uid(&node.value).to_owned()).unwrap_or_default())
    }
}
