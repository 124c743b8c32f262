//! Jobs and CronJobs.

use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

use super::definition::{Definition, NAME, PLAIN, column, names, status_of, typed, wide};
use super::{pod, show};
use crate::cursor::{At, find, list, make_object, set_default, set_default_text, text};
use crate::field::FieldError;
use crate::kind::Part;
use crate::validate::{label_selector, not_negative, one_of, unchanged};

/// Job.
pub static JOB: Definition = Definition {
    names: names!("batch", "v1", "Job", "jobs", "job", [], ["all"]),
    subresources: &[status_of("batch", "v1", "Job")],
    generation: true,
    status: true,
    default: |object| job_defaults(make_object(object, "spec")),
    prepare_create: job_selector,
    validate: |object| {
        let spec = At::root(object).get("spec");
        let mut findings = Vec::new();
        let selector = spec.get("selector");
        if selector.is_set() {
            label_selector(&mut findings, &selector);
        } else {
            findings.push(selector.required(""));
        }
        job_spec(&mut findings, &spec);
        findings
    },
    validate_update: |new, old, part| {
        let mut findings = Vec::new();
        if part == Part::Main {
            let (new, old) = (At::root(new).get("spec"), At::root(old).get("spec"));
            let indexed = old.get("completionMode").str() == "Indexed";
            for field in ["selector", "completionMode", "podFailurePolicy", "backoffLimitPerIndex", "managedBy", "successPolicy"] {
                unchanged(&mut findings, &new.get(field), &old.get(field));
            }
            // An indexed job may be made larger or smaller as long as both numbers go together.
            let elastic = indexed && new.get("completions").value == new.get("parallelism").value;
            if !elastic {
                unchanged(&mut findings, &new.get("completions"), &old.get("completions"));
            }
            if !old.get("suspend").is_true() || new.get("template").at("spec.containers").len() != old.get("template").at("spec.containers").len() {
                unchanged(&mut findings, &new.get("template"), &old.get("template"));
            }
        }
        findings
    },
    columns: &[
        NAME,
        column("Status"),
        column("Completions"),
        column("Duration"),
        column("Age"),
        wide("Containers"),
        wide("Images"),
        wide("Selector"),
    ],
    cells: job_cells,
    fields: &["status.successful"],
    selectable: |object, _| show::number(object, "status.succeeded").to_string(),
    ..PLAIN
};

/// CronJob.
pub static CRON_JOB: Definition = Definition {
    names: names!("batch", "v1", "CronJob", "cronjobs", "cronjob", ["cj"], ["all"]),
    subresources: &[status_of("batch", "v1", "CronJob")],
    generation: true,
    status: true,
    default: |object| {
        let spec = make_object(object, "spec");
        set_default_text(spec, "concurrencyPolicy", "Allow");
        set_default(spec, "suspend", false);
        set_default(spec, "successfulJobsHistoryLimit", 3);
        set_default(spec, "failedJobsHistoryLimit", 1);
        let template = make_object(make_object(make_object(spec, "jobTemplate"), "spec"), "template");
        pod::defaults::template(template);
    },
    validate: cron_job,
    columns: &[
        NAME,
        column("Schedule"),
        column("Timezone"),
        typed("Suspend", "boolean"),
        typed("Active", "integer"),
        column("Last Schedule"),
        column("Age"),
        wide("Containers"),
        wide("Images"),
        wide("Selector"),
    ],
    cells: |object, now| {
        let last = match text(object, "status.lastScheduleTime") {
            "" => "<none>".to_owned(),
            last => crate::duration::since_text(last, now),
        };
        let spec = "spec.jobTemplate.spec.template.spec";
        vec![
            show::name(object),
            text(object, "spec.schedule").into(),
            show::or_none(text(object, "spec.timeZone")),
            if find(object, "spec.suspend") == &Value::Bool(true) { "True".into() } else { "False".into() },
            list(object, "status.active").len().into(),
            last.into(),
            show::age(object, now),
            show::containers(object, spec),
            show::images(object, spec),
            show::selector(find(object, "spec.jobTemplate.spec.selector")).into(),
        ]
    },
    ..PLAIN
};

fn job_defaults(spec: &mut Value) {
    let unset = |spec: &Value, name: &str| spec.get(name).is_none_or(Value::is_null);
    if unset(spec, "completions") && unset(spec, "parallelism") {
        set_default(spec, "completions", 1);
        set_default(spec, "parallelism", 1);
    }
    set_default(spec, "parallelism", 1);
    let per_index = spec.get("backoffLimitPerIndex").is_some_and(|limit| !limit.is_null());
    set_default(spec, "backoffLimit", if per_index { i64::from(i32::MAX) } else { 6 });
    set_default_text(spec, "completionMode", "NonIndexed");
    set_default(spec, "suspend", false);
    set_default(spec, "manualSelector", false);
    let failure_policy = spec.get("podFailurePolicy").is_some_and(Value::is_object);
    set_default_text(spec, "podReplacementPolicy", if failure_policy { "Failed" } else { "TerminatingOrFailed" });
    for rule in spec.get_mut("podFailurePolicy").map(|policy| crate::cursor::items_mut(policy, "rules")).unwrap_or_default() {
        for condition in crate::cursor::items_mut(rule, "onPodConditions") {
            set_default_text(condition, "status", "True");
        }
    }
    pod::defaults::template(make_object(spec, "template"));
}

/// A job that brings no selector finds its pods by its own UID. The UID must have been set.
fn job_selector(object: &mut Value) {
    let uid = text(object, "metadata.uid").to_owned();
    let name = text(object, "metadata.name").to_owned();
    if find(object, "spec.manualSelector") == &Value::Bool(true) || uid.is_empty() {
        return;
    }
    let spec = make_object(object, "spec");
    let template = make_object(spec, "template");
    let labels = make_object(make_object(template, "metadata"), "labels");
    for (key, value) in [
        ("controller-uid", &uid),
        ("job-name", &name),
        ("batch.kubernetes.io/controller-uid", &uid),
        ("batch.kubernetes.io/job-name", &name),
    ] {
        set_default(labels, key, value.clone());
    }
    if spec.get("selector").is_none_or(Value::is_null) {
        spec["selector"] = json!({ "matchLabels": { "batch.kubernetes.io/controller-uid": uid } });
    }
}

/// A job's spec, without the selector (which a CronJob's template does not have).
fn job_spec(findings: &mut Vec<FieldError>, spec: &At<'_>) {
    for field in ["parallelism", "completions", "backoffLimit", "backoffLimitPerIndex", "maxFailedIndexes", "ttlSecondsAfterFinished"] {
        not_negative(findings, &spec.get(field));
    }
    let deadline = spec.get("activeDeadlineSeconds");
    not_negative(findings, &deadline);
    one_of_set(findings, &spec.get("completionMode"), &["Indexed", "NonIndexed"]);
    if spec.get("completionMode").str() == "Indexed" && !spec.get("completions").is_set() {
        findings.push(spec.get("completions").required("when completion mode is Indexed"));
    }
    one_of_set(findings, &spec.get("podReplacementPolicy"), &["Failed", "TerminatingOrFailed"]);
    let template = spec.get("template");
    let selector = spec.get("selector");
    if selector.is_set() && !pod::spec::selects(selector.value, template.at("metadata.labels").value) {
        findings.push(template.at("metadata.labels").invalid("`selector` does not match template `labels`"));
    }
    pod::spec::template(findings, &template);
    let policy = template.at("spec.restartPolicy");
    if policy.str() == "Always" {
        let detail = "valid values: \"OnFailure\", \"Never\"";
        let mut finding = FieldError::required(policy.path.clone(), detail);
        if !policy.is_empty() {
            finding = policy.not_supported(&["OnFailure", "Never"]);
        }
        findings.push(finding);
    }
    let failure = spec.get("podFailurePolicy");
    if failure.is_set() {
        if policy.str() != "Never" {
            let detail = "only \"Never\" is supported when podFailurePolicy is specified";
            findings.push(policy.invalid(detail));
        }
        for rule in failure.get("rules").items() {
            one_of(findings, &rule.get("action"), &["Count", "FailIndex", "FailJob", "Ignore"]);
        }
    }
}

fn one_of_set(findings: &mut Vec<FieldError>, at: &At<'_>, known: &[&str]) {
    if at.is_set() {
        one_of(findings, at, known);
    }
}

fn cron_job(object: &Value) -> Vec<FieldError> {
    let spec = At::root(object).get("spec");
    let mut findings = Vec::new();
    let name = At::root(object).at("metadata.name");
    if name.str().len() > 52 {
        findings.push(name.invalid("must be no more than 52 characters"));
    }
    let schedule = spec.get("schedule");
    if schedule.is_empty() {
        findings.push(schedule.required(""));
    } else if let Some(problem) = schedule_problem(schedule.str()) {
        findings.push(schedule.invalid(&problem));
    }
    for field in ["startingDeadlineSeconds", "successfulJobsHistoryLimit", "failedJobsHistoryLimit"] {
        not_negative(&mut findings, &spec.get(field));
    }
    let policy = spec.get("concurrencyPolicy");
    one_of(&mut findings, &policy, &["Allow", "Forbid", "Replace"]);
    let zone = spec.get("timeZone");
    if zone.is_set() && zone.is_empty() {
        findings.push(zone.invalid("timeZone must be nil or non-empty string"));
    } else if zone.str().eq_ignore_ascii_case("local") {
        findings.push(zone.invalid("timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones"));
    }
    job_spec(&mut findings, &spec.at("jobTemplate.spec"));
    findings
}

/// What is wrong with a cron expression, roughly: five fields of known characters, or a macro.
fn schedule_problem(schedule: &str) -> Option<String> {
    if schedule.contains("TZ=") {
        return Some("cannot use TZ or CRON_TZ in schedule, use timeZone field instead".to_owned());
    }
    if schedule.starts_with('@') {
        let known = ["@yearly", "@annually", "@monthly", "@weekly", "@daily", "@midnight", "@hourly"];
        let every = schedule.starts_with("@every ");
        return (!known.contains(&schedule) && !every).then(|| format!("unrecognized descriptor: {schedule}"));
    }
    let fields: Vec<&str> = schedule.split_whitespace().collect();
    if fields.len() != 5 {
        return Some(format!("expected exactly 5 fields, found {}: [{}]", fields.len(), fields.join(" ")));
    }
    let bad = fields.iter().find(|field| !field.chars().all(|c| c.is_ascii_alphanumeric() || "*/,-?".contains(c)));
    bad.map(|field| format!("failed to parse int from {field}: strconv.Atoi: parsing {field:?}: invalid syntax"))
}

fn condition(object: &Value, r#type: &str) -> bool {
    list(object, "status.conditions").iter().any(|one| text(one, "type") == r#type && text(one, "status") == "True")
}

fn job_cells(object: &Value, now: Timestamp) -> Vec<Value> {
    let succeeded = show::number(object, "status.succeeded");
    let completions = match find(object, "spec.completions").as_i64() {
        Some(wanted) => format!("{succeeded}/{wanted}"),
        None => match show::number(object, "spec.parallelism") {
            parallel if parallel > 1 => format!("{succeeded}/1 of {parallel}"),
            _ => format!("{succeeded}/1"),
        },
    };
    let started = crate::duration::parse(text(object, "status.startTime"));
    let ended = crate::duration::parse(text(object, "status.completionTime"));
    let duration = started.map_or_else(String::new, |started| crate::duration::since(started, ended.unwrap_or(now)));
    let deleting = !text(object, "metadata.deletionTimestamp").is_empty();
    let status = ["Complete", "Failed"]
        .into_iter()
        .find(|r#type| condition(object, r#type))
        .or_else(|| deleting.then_some("Terminating"))
        .or_else(|| ["Suspended", "FailureTarget", "SuccessCriteriaMet"].into_iter().find(|one| condition(object, one)))
        .unwrap_or("Running");
    let spec = "spec.template.spec";
    vec![
        show::name(object),
        status.into(),
        completions.into(),
        duration.into(),
        show::age(object, now),
        show::containers(object, spec),
        show::images(object, spec),
        show::selector(find(object, "spec.selector")).into(),
    ]
}
