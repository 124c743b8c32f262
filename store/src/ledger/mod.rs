//! What is replicated besides keys and leases: alarms, users and roles, what members say of themselves, a downgrade
//! that was asked for. Small, so it is kept in memory as a whole and written as a whole whenever it changes.
//!
//! Pure: every replica that applies the same commands in the same order holds the same ledger.

pub mod admit;
pub mod auth;
pub mod permission;

use std::collections::{BTreeMap, BTreeSet};

use balsa_proto::etcd::etcdserverpb::alarm_request::AlarmAction;
use balsa_proto::etcd::etcdserverpb::{AlarmMember, AlarmRequest, AlarmType, DowngradeInfo};
use balsa_proto::store as wire;
use prost::Message as _;

pub use auth::{Auth, Who};

use crate::error::Fault;

/// Everything of it.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Ledger {
    /// Raised alarms: kind and member.
    alarms: BTreeSet<(i32, u64)>,
    /// Users, roles, and whether they count.
    pub auth: Auth,
    /// The version that a downgrade was enabled to.
    pub downgrade: Option<String>,
    /// Names and client URLs by member.
    pub members: BTreeMap<u64, Attributes>,
}

/// What a member says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Attributes {
    /// Its name.
    pub name: String,
    /// How clients reach it.
    pub client_urls: Vec<String>,
}

impl Ledger {
    /// Whether it forbids nobody anything: no alarm, no auth.
    pub fn is_quiet(&self) -> bool {
        self.alarms.is_empty() && !self.auth.is_enabled()
    }

    /// The alarms of a kind, or of all kinds.
    pub fn alarms(&self, kind: AlarmType) -> Vec<AlarmMember> {
        let wanted = self.alarms.iter().filter(|(alarm, _)| kind == AlarmType::None || *alarm == kind as i32);
        wanted.map(|(alarm, member)| AlarmMember { alarm: *alarm, member_id: *member }).collect()
    }

    /// Whether any member raised this alarm.
    pub fn is_raised(&self, kind: AlarmType) -> bool {
        self.alarms.range((kind as i32, 0)..=(kind as i32, u64::MAX)).next().is_some()
    }

    /// Raises or clears an alarm; says which alarms that was about, as etcd answers it. To deactivate kind 0 or member
    /// 0 clears nothing: etcd's clients name both.
    pub fn alarm(&mut self, request: &AlarmRequest) -> Vec<AlarmMember> {
        let alarm = AlarmMember { member_id: request.member_id, alarm: request.alarm };
        let place = (request.alarm, request.member_id);
        match AlarmAction::try_from(request.action) {
            Ok(AlarmAction::Activate) if request.alarm != AlarmType::None as i32 => {
                self.alarms.insert(place);
                vec![alarm]
            }
            Ok(AlarmAction::Deactivate) if self.alarms.remove(&place) => vec![alarm],
            Ok(AlarmAction::Get) => self.alarms(AlarmType::try_from(request.alarm).unwrap_or(AlarmType::None)),
            _ => Vec::new(),
        }
    }

    /// As etcd shows it.
    pub fn downgrade_info(&self) -> DowngradeInfo {
        DowngradeInfo { enabled: self.downgrade.is_some(), target_version: self.downgrade.clone().unwrap_or_default() }
    }

    /// For the disk.
    pub fn encode(&self) -> Vec<u8> {
        let (users, roles) = self.auth.stored();
        let members = self.members.iter().map(|(id, attributes)| wire::Attributes {
            member: *id,
            name: attributes.name.clone(),
            client_urls: attributes.client_urls.clone(),
        });
        let stored = wire::Ledger {
            alarms: self.alarms(AlarmType::None),
            auth_enabled: self.auth.is_enabled(),
            auth_revision: self.auth.revision(),
            users,
            roles,
            downgrade: self.downgrade.as_ref().map(|_| self.downgrade_info()),
            members: members.collect(),
        };
        stored.encode_to_vec()
    }

    /// The inverse of [`Self::encode`].
    pub fn decode(stored: &[u8]) -> Result<Self, Fault> {
        let stored = wire::Ledger::decode(stored).map_err(|error| Fault(format!("a malformed ledger: {error}")))?;
        let attributes = |member: wire::Attributes| {
            (member.member, Attributes { name: member.name, client_urls: member.client_urls })
        };
        Ok(Self {
            alarms: stored.alarms.iter().map(|alarm| (alarm.alarm, alarm.member_id)).collect(),
            auth: Auth::restored(stored.auth_enabled, stored.auth_revision, stored.users, stored.roles),
            downgrade: stored.downgrade.filter(|info| info.enabled).map(|info| info.target_version),
            members: stored.members.into_iter().map(attributes).collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(action: AlarmAction, member_id: u64, alarm: AlarmType) -> AlarmRequest {
        AlarmRequest { action: action as i32, member_id, alarm: alarm as i32 }
    }

    #[test]
    fn alarms_are_raised_per_member_and_cleared_by_name() {
        let mut ledger = Ledger::default();
        assert!(ledger.alarm(&request(AlarmAction::Activate, 7, AlarmType::None)).is_empty());
        for _ in 0..2 {
            assert_eq!(ledger.alarm(&request(AlarmAction::Activate, 7, AlarmType::Nospace)).len(), 1);
        }
        ledger.alarm(&request(AlarmAction::Activate, 8, AlarmType::Nospace));
        assert_eq!(ledger.alarms(AlarmType::None).len(), 2);
        assert!(ledger.is_raised(AlarmType::Nospace) && !ledger.is_raised(AlarmType::Corrupt));
        assert_eq!(ledger.alarm(&request(AlarmAction::Deactivate, 7, AlarmType::Corrupt)), []);
        assert_eq!(ledger.alarm(&request(AlarmAction::Deactivate, 7, AlarmType::Nospace)).len(), 1);
        assert!(ledger.is_raised(AlarmType::Nospace), "the other member's stays");
        ledger.members.insert(3, Attributes { name: "c".to_owned(), client_urls: vec!["http://c".to_owned()] });
        ledger.downgrade = Some("3.5.0".to_owned());
        assert_eq!(Ledger::decode(&ledger.encode()).unwrap(), ledger);
        assert!(Ledger::decode(b"\xff\xff\xff").is_err());
    }
}
