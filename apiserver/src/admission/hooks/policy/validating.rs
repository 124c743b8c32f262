//! ValidatingAdmissionPolicy: every validation must be true, or the request is denied, warned of or noted.

use balsa_api::status::{ApiError, ApiResult};
use balsa_cel::{Bindings, PER_REQUEST, Value as Cel};
use serde_json::{Value, json};

use super::compiled::{Binding, Policy, Validation, ValidatingPolicy};
use super::params;
use crate::admission::hooks::conditions::{Failure, all_hold};
use crate::admission::hooks::matching::Hit;
use crate::admission::hooks::request::Asked;
use crate::admission::hooks::{Around, convert, forbidden, variables};
use crate::pipeline::Api;

/// The longest message that an expression may give, in bytes.
const LONGEST_MESSAGE: usize = 5 * 1024;
/// The longest value of an audit annotation, in bytes.
const LONGEST_ANNOTATION: usize = 10 * 1024;

/// A denial: message and reason.
struct Denial {
    message: String,
    reason: String,
}

/// What a policy says with one parameter.
#[derive(Default)]
struct Verdict {
    /// Of validations that failed: which, why, and its reason.
    failed: Vec<(usize, String, String)>,
    /// Annotations for the audit log.
    annotations: Vec<(String, String)>,
    /// Annotations that could not be made: the request is denied whatever the binding's actions.
    errors: Vec<String>,
}

/// Puts a request to all policies that are about it. The first denial decides.
pub async fn validate(api: &Api, policies: &[ValidatingPolicy], asked: &Asked<'_>, around: &Around) -> ApiResult<()> {
    let mut denials = Vec::new();
    for own in policies {
        let policy = &own.policy;
        let hit = match policy.criteria.hit(asked, &around.labels, &around.equivalents) {
            Ok(Some(hit)) => hit,
            Ok(None) => continue,
            Err(error) => {
                denials.extend(misconfigured(policy, None, &error.message));
                continue;
            }
        };
        let shown = convert(api, asked, &hit).await?;
        let mut annotations: Vec<(String, Vec<String>)> = Vec::new();
        for binding in &policy.bindings {
            match judge(api, own, binding, &shown, &hit, around).await {
                Ok(verdicts) => {
                    for verdict in verdicts {
                        act(asked, policy, binding, verdict, &mut denials, &mut annotations);
                    }
                }
                Err(error) => denials.extend(misconfigured(policy, Some(binding), &error)),
            }
        }
        for (key, values) in annotations {
            asked.call.annotate(format!("{}/{key}", policy.name), values.join(", "));
        }
    }
    match denials.into_iter().next() {
        None => Ok(()),
        Some(denial) => Err(refusal(asked, &denial)),
    }
}

fn refusal(asked: &Asked<'_>, denial: &Denial) -> ApiError {
    let mut error = forbidden(asked, &denial.message).with_cause("", denial.message.clone(), "");
    error.code = match denial.reason.as_str() {
        "Unauthorized" => 401,
        "Forbidden" => 403,
        "RequestEntityTooLarge" => 413,
        _ => 422,
    };
    error.reason.clone_from(&denial.reason);
    error
}

fn denied(policy: &Policy, binding: Option<&Binding>, message: &str, reason: &str) -> Denial {
    let message = match binding {
        Some(binding) => format!(
            "ValidatingAdmissionPolicy '{}' with binding '{}' denied request: {message}",
            policy.name, binding.name
        ),
        None => format!("ValidatingAdmissionPolicy '{}' denied request: {message}", policy.name),
    };
    Denial { message, reason: reason.to_owned() }
}

/// A policy that cannot be applied denies, unless it says that failures do not count.
fn misconfigured(policy: &Policy, binding: Option<&Binding>, error: &str) -> Option<Denial> {
    let what = if binding.is_none() { "policy" } else { "binding" };
    let message = format!("failed to configure {what}: {error}");
    (!policy.ignore).then(|| denied(policy, binding, &message, "Invalid"))
}

/// What the policy says by this binding, once per parameter. The error is about the configuration.
async fn judge(
    api: &Api,
    own: &ValidatingPolicy,
    binding: &Binding,
    asked: &Asked<'_>,
    hit: &Hit,
    around: &Around,
) -> Result<Vec<Verdict>, String> {
    let matched = binding.criteria.hit(asked, &around.labels, &around.equivalents).map_err(|error| error.message)?;
    if matched.is_none() {
        return Ok(Vec::new());
    }
    let params = params::collect(api, &own.policy, binding, &asked.namespace).await?;
    let bare = variables::bindings(api, asked, hit, around.namespace.as_ref());
    Ok(params.iter().map(|param| evaluate(own, &bare, param.as_ref())).collect())
}

/// Evaluates the policy with one parameter. Pure.
fn evaluate(own: &ValidatingPolicy, bare: &Bindings, param: Option<&Value>) -> Verdict {
    let policy = &own.policy;
    let mut verdict = Verdict::default();
    let mut bindings = bare.clone();
    bindings.insert("params".to_owned(), param.map_or(Cel::Null, Cel::from));
    let mut before = bindings.clone();
    before.insert("namespaceObject".to_owned(), Cel::Null);
    match all_hold(&policy.conditions, &before, policy.ignore) {
        Ok(true) => {}
        Ok(false) => return verdict,
        Err(error) => {
            verdict.failed.push((0, error, "Invalid".to_owned()));
            return verdict;
        }
    }
    let bindings = variables::compose(bindings, &policy.variables);
    let mut left = PER_REQUEST;
    for (at, validation) in own.validations.iter().enumerate() {
        match validation.expression.evaluate(&bindings, &mut left) {
            Ok(Cel::Bool(true)) => {}
            Ok(_) => {
                let message = message_of(validation, &bindings, &mut left);
                verdict.failed.push((at, message, validation.reason.clone()));
            }
            Err(_) if policy.ignore => {}
            Err(failure) => verdict.failed.push((at, failure.message().to_owned(), "Invalid".to_owned())),
        }
    }
    annotate(own, &bindings, &mut verdict);
    verdict
}

/// Why a validation failed: its expression's words, its own, or the expression itself.
fn message_of(validation: &Validation, bindings: &Bindings, left: &mut u64) -> String {
    let given = validation.message_expression.as_ref().map(|expression| expression.evaluate(bindings, left));
    if let Some(Err(Failure::Budget)) = given {
        return format!("failed messageExpression: {}", Failure::Budget.message());
    }
    let text = match given {
        Some(Ok(Cel::String(text))) => text.trim().to_owned(),
        _ => String::new(),
    };
    if !text.is_empty() && text.len() <= LONGEST_MESSAGE && !text.contains('\n') {
        return text;
    }
    if !validation.message.is_empty() {
        return validation.message.clone();
    }
    format!("failed expression: {}", validation.expression.text)
}

fn annotate(own: &ValidatingPolicy, bindings: &Bindings, verdict: &mut Verdict) {
    let mut left = PER_REQUEST;
    for (key, expression) in &own.annotations {
        match expression.evaluate(bindings, &mut left) {
            Ok(Cel::String(text)) if !text.trim().is_empty() => {
                verdict.annotations.push((key.clone(), text.trim().to_owned()));
            }
            Ok(Cel::String(_) | Cel::Null) => {}
            Ok(other) => verdict.errors.push(format!(
                "valueExpression '{}' resulted in unsupported return type: {}. Return type must be either string or null.",
                expression.text,
                other.type_name()
            )),
            Err(_) if own.policy.ignore => {}
            Err(failure) => verdict.errors.push(failure.message().to_owned()),
        }
    }
}

/// Carries out what the binding wants done about failures.
fn act(
    asked: &Asked<'_>,
    policy: &Policy,
    binding: &Binding,
    verdict: Verdict,
    denials: &mut Vec<Denial>,
    annotations: &mut Vec<(String, Vec<String>)>,
) {
    for (at, message, reason) in verdict.failed {
        for action in &binding.actions {
            match action.as_str() {
                "Deny" => denials.push(denied(policy, Some(binding), &message, &reason)),
                "Warn" => asked.call.warn(format!(
                    "Validation failed for ValidatingAdmissionPolicy '{}' with binding '{}': {message}",
                    policy.name, binding.name
                )),
                _ => {
                    let failure = json!([{"message": message, "policy": policy.name, "binding": binding.name,
                        "expressionIndex": at, "validationActions": binding.actions}]);
                    let key = "validation.policy.admission.k8s.io/validation_failure";
                    asked.call.annotate(key.to_owned(), failure.to_string());
                }
            }
        }
    }
    for (key, value) in verdict.annotations {
        let mut end = value.len().min(LONGEST_ANNOTATION);
        while !value.is_char_boundary(end) {
            end -= 1;
        }
        let value = value[..end].to_owned();
        match annotations.iter_mut().find(|(known, _)| *known == key) {
            Some((_, values)) if values.contains(&value) => {}
            Some((_, values)) => values.push(value),
            None => annotations.push((key, vec![value])),
        }
    }
    denials.extend(verdict.errors.iter().map(|error| denied(policy, Some(binding), error, "Invalid")));
}
