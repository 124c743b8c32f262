//! The CronJob planner, case by case, and over any course of time.

use std::sync::Arc;

use k8s_openapi::api::batch::v1::{CronJob, CronJobStatus, Job};
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::jiff::Timestamp;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::plan::{Action, Observed, plan};
use crate::common::time;

fn second(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn cron(parts: &Value) -> CronJob {
    let mut spec = json!({
        "schedule": "0 * * * *", "concurrencyPolicy": "Allow", "suspend": false,
        "successfulJobsHistoryLimit": 1, "failedJobsHistoryLimit": 1,
        "jobTemplate": {"metadata": {"labels": {"app": "tick"}}, "spec": {"template": {}}},
    });
    for (name, value) in parts.as_object().into_iter().flatten() {
        spec[name] = value.clone();
    }
    serde_json::from_value(json!({
        "metadata": {"name": "tick", "namespace": "default", "uid": "uid-tick", "creationTimestamp": "2026-11-23T09:30:00Z"},
        "spec": spec,
    }))
    .unwrap()
}

fn job(name: &str, end: Option<(&str, &str)>) -> Arc<Job> {
    let status = end.map_or(json!({}), |(kind, at)| {
        let done = if kind == "Complete" { json!(at) } else { Value::Null };
        json!({"startTime": at, "completionTime": done, "conditions": [{"type": kind, "status": "True"}]})
    });
    Arc::new(serde_json::from_value(json!({"metadata": {"name": name, "uid": format!("uid-{name}")}, "status": status})).unwrap())
}

fn running(name: &str) -> ObjectReference {
    ObjectReference { name: Some(name.to_owned()), uid: Some(format!("uid-{name}")), ..ObjectReference::default() }
}

fn lines(cron: &CronJob, observed: &Observed, now: &str) -> Vec<String> {
    plan(cron, observed, second(now)).actions.iter().map(ToString::to_string).collect()
}

const TEN: &str = "start tick-29923800 for 2026-11-23T10:00:00Z";

#[test]
fn when_a_job_starts() {
    let cases = [
        (json!({}), "2026-11-23T09:59:59Z", vec![]),
        (json!({}), "2026-11-23T10:00:00Z", vec![TEN]),
        (json!({"suspend": true}), "2026-11-23T10:00:00Z", vec![]),
        // Of several missed times the last.
        (json!({}), "2026-11-23T13:10:00Z", vec!["start tick-29923980 for 2026-11-23T13:00:00Z"]),
        // Too late for the deadline: as if it had not been.
        (json!({"startingDeadlineSeconds": 60}), "2026-11-23T10:05:00Z", vec![]),
        (json!({"startingDeadlineSeconds": 600}), "2026-11-23T10:05:00Z", vec![TEN]),
        (
            json!({"schedule": "* * * * *"}),
            "2026-11-23T12:00:00Z",
            vec![
                "event Warning TooManyMissedTimes: too many missed start times. Set or decrease .spec.startingDeadlineSeconds or check clock skew",
                "start tick-29923920 for 2026-11-23T12:00:00Z",
            ],
        ),
        (
            json!({"schedule": "x * * * *"}),
            "2026-11-23T12:00:00Z",
            vec!["event Warning UnparseableSchedule: unparseable schedule: \"x * * * *\" : failed to parse int from x: strconv.Atoi: parsing \"x\": invalid syntax"],
        ),
    ];
    for (parts, now, expected) in cases {
        assert_eq!(lines(&cron(&parts), &Observed::default(), now), expected, "{parts} {now}");
    }
    let at = |now: &str| plan(&cron(&json!({})), &Observed::default(), second(now)).requeue_after.unwrap().as_millis();
    assert_eq!((at("2026-11-23T09:59:58Z"), at("2026-11-23T10:00:00Z")), (2_100, 3_600_100));
}

#[test]
fn time_zones() {
    let zone = k8s_openapi::jiff::tz::TimeZone::get("Asia/Kolkata").unwrap();
    let cron_job = cron(&json!({"schedule": "0 16 * * *", "timeZone": "Asia/Kolkata"}));
    let observed = Observed { zone: Some(Ok(zone)), ..Observed::default() };
    let plan = plan(&cron_job, &observed, second("2026-11-23T10:30:00Z"));
    let Some(Action::Start { job, .. }) = plan.actions.first() else { panic!("{:?}", plan.actions) };
    let stamp = &job.metadata.annotations.as_ref().unwrap()["batch.kubernetes.io/cronjob-scheduled-timestamp"];
    assert_eq!(stamp, "2026-11-23T16:00:00+05:30");
    let unknown = Observed { zone: Some(Err("unknown time zone Mars/Base".to_owned())), ..Observed::default() };
    let cron = cron(&json!({"timeZone": "Mars/Base"}));
    let expected = ["event Warning UnknownTimeZone: invalid timeZone: \"Mars/Base\": unknown time zone Mars/Base"];
    assert_eq!(lines(&cron, &unknown, "2026-11-23T10:30:00Z"), expected);
}

#[test]
fn what_running_jobs_mean_for_the_next() {
    for (policy, expected) in [
        ("Allow", vec![TEN]),
        ("Forbid", vec!["event Normal JobAlreadyActive: Not starting job because prior execution is running and concurrency policy is Forbid"]),
        ("Replace", vec!["delete tick-1", TEN]),
    ] {
        let mut cron = cron(&json!({ "concurrencyPolicy": policy }));
        cron.status = Some(CronJobStatus { active: Some(vec![running("tick-1")]), ..CronJobStatus::default() });
        let observed = Observed { jobs: vec![job("tick-1", None)], ..Observed::default() };
        assert_eq!(lines(&cron, &observed, "2026-11-23T10:00:00Z"), expected, "{policy}");
    }
}

#[test]
fn what_became_of_its_jobs() {
    let mut cron = cron(&json!({}));
    let active = ["done", "broken", "gone", "up"].map(running).to_vec();
    cron.status = Some(CronJobStatus { active: Some(active), ..CronJobStatus::default() });
    let jobs = vec![
        job("done", Some(("Complete", "2026-11-23T09:41:00Z"))),
        job("older", Some(("Complete", "2026-11-23T09:40:00Z"))),
        job("broken", Some(("Failed", "2026-11-23T09:42:00Z"))),
        job("stray", None),
        job("up", None),
    ];
    let observed = Observed { jobs, missing: ["uid-gone".to_owned()].into(), zone: None };
    let plan = plan(&cron, &observed, second("2026-11-23T09:45:00Z"));
    let lines: Vec<String> = plan.actions.iter().map(ToString::to_string).collect();
    assert_eq!(
        lines,
        [
            "event Normal SawCompletedJob: Saw completed job: done, condition: Complete",
            "event Normal SawCompletedJob: Saw completed job: broken, condition: Failed",
            "event Warning UnexpectedJob: Saw a job that the controller did not create or forgot: stray",
            "event Normal MissingJob: Active job went missing: gone",
            "delete older",
        ]
    );
    let status = plan.status.unwrap();
    assert_eq!(status.active, Some(vec![running("up")]));
    assert_eq!(status.last_successful_time, time::api(second("2026-11-23T09:41:00Z")));
}

proptest! {
    // Whenever it is looked at, with starts that get lost and statuses that are not written: no time is started twice,
    // with Forbid no two run at once, and the last time that has come is always started in the end.
    #[test]
    fn no_time_twice(steps in prop::collection::vec((1..7200i64, any::<bool>(), any::<bool>(), any::<bool>()), 1..60), forbid in any::<bool>()) {
        let mut cron = cron(&json!({"schedule": "*/20 * * * *", "concurrencyPolicy": if forbid { "Forbid" } else { "Allow" }}));
        let mut jobs: Vec<Arc<Job>> = Vec::new();
        let mut all: Vec<String> = Vec::new();
        let mut now = second("2026-11-23T09:30:00Z");
        let mut steps = steps;
        steps.extend([(1, true, true, true), (1, true, true, true), (1, true, true, true)]);
        for (pass, ends, works, is_written) in steps {
            now = time::after_seconds(now, pass);
            if ends {
                jobs = jobs.iter().map(|one| job(one.metadata.name.as_deref().unwrap(), Some(("Complete", "2026-11-23T09:31:00Z")))).collect();
            }
            // Active ones that are not there are looked at live.
            let there = |uid: &String| jobs.iter().any(|job| job.metadata.uid.as_ref() == Some(uid));
            let active = cron.status.clone().and_then(|status| status.active).unwrap_or_default();
            let missing = active.into_iter().filter_map(|reference| reference.uid).filter(|uid| !there(uid)).collect();
            let plan = plan(&cron, &Observed { jobs: jobs.clone(), missing, zone: None }, now);
            let mut status = plan.status.or_else(|| cron.status.clone()).unwrap_or_default();
            for action in plan.actions {
                match action {
                    Action::Delete { job, .. } => jobs.retain(|known| known.metadata.name.as_deref() != Some(job.as_str())),
                    Action::Start { job: new, at } if works => {
                        let name = new.metadata.name.clone().unwrap();
                        // The apiserver knows a name that is taken; whoever starts finds it is ours.
                        if !jobs.iter().any(|known| known.metadata.name.as_ref() == Some(&name)) {
                            prop_assert!(!all.contains(&name), "{} twice", name);
                            jobs.push(job(&name, None));
                            all.push(name.clone());
                        }
                        status.active.get_or_insert_default().push(running(&name));
                        status.last_schedule_time = time::api(at);
                    }
                    _ => {}
                }
            }
            let up = jobs.iter().filter(|job| job.status.as_ref().is_none_or(|status| status.conditions.is_none())).count();
            prop_assert!(!forbid || up <= 1, "{} at once", up);
            if is_written {
                cron.status = Some(status);
            }
        }
        let last = cron.status.unwrap().last_schedule_time;
        let due = now.as_second() / 1200 * 1200;
        if due > second("2026-11-23T09:30:00Z").as_second() {
            prop_assert_eq!(last.map(|time| time.0.as_second()), Some(due));
        }
    }
}
