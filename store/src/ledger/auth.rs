//! Users, roles and permissions: how they change, and what they permit. Pure; the rules and the errors are etcd's
//! (`server/auth/store.go`).
//!
//! Every change makes a new auth revision. A request says at which revision its user was looked up; if that is older
//! than the ledger's when it is applied, it is refused, and the client looks again.

use std::collections::{BTreeMap, BTreeSet};

use balsa_proto::etcd::authpb::{self, Permission, UserAddOptions, permission::Type};
use balsa_proto::store::{AuthChange, Login, auth_change::Change};
use balsa_proto::etcd::etcdserverpb as etcd;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;

use super::permission::{Access, covers, is_valid};
use crate::error::Refusal;
use crate::mvcc::KeyRange;

/// The user, and the role, that may do everything.
pub const ROOT: &str = "root";

/// Who asks, as of an auth revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Who {
    /// The user's name.
    pub user: String,
    /// The auth revision at which it was looked up.
    pub revision: u64,
}

/// A user.
#[derive(Debug, Clone, PartialEq, Default)]
struct User {
    /// bcrypt; empty for one without a password.
    password: Bytes,
    no_password: bool,
    roles: BTreeSet<String>,
}

/// All of them.
#[derive(Debug, Clone, PartialEq)]
pub struct Auth {
    enabled: bool,
    revision: u64,
    users: BTreeMap<String, User>,
    /// Permissions ascend by key.
    roles: BTreeMap<String, Vec<Permission>>,
}

impl Default for Auth {
    fn default() -> Self {
        Self { enabled: false, revision: 1, users: BTreeMap::new(), roles: BTreeMap::new() }
    }
}

/// What a change means to the tokens that were given out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Tokens {
    /// They stay.
    Stay,
    /// This one is the user's from now on.
    Given {
        /// The token.
        token: String,
        /// Whose it is.
        user: String,
    },
    /// Those of a user end.
    EndOf(String),
    /// All end.
    EndAll,
}

fn text(bytes: &Bytes) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

impl Auth {
    /// Whether users and permissions count.
    pub fn is_enabled(&self) -> bool {
        self.enabled
    }

    /// Counts changes, from 1.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// As it lies on disk.
    pub(super) fn stored(&self) -> (Vec<authpb::User>, Vec<authpb::Role>) {
        let users = self.users.iter().map(|(name, user)| authpb::User {
            name: name.clone().into(),
            password: user.password.clone(),
            roles: user.roles.iter().cloned().collect(),
            options: Some(UserAddOptions { no_password: user.no_password }),
        });
        let roles = self.roles.iter();
        let roles = roles.map(|(name, grants)| authpb::Role { name: name.clone().into(), key_permission: grants.clone() });
        (users.collect(), roles.collect())
    }

    /// The inverse of [`Self::stored`].
    pub(super) fn restored(enabled: bool, revision: u64, users: Vec<authpb::User>, roles: Vec<authpb::Role>) -> Self {
        let users = users.into_iter().map(|user| {
            let no_password = user.options.is_some_and(|options| options.no_password);
            (text(&user.name), User { password: user.password, no_password, roles: user.roles.into_iter().collect() })
        });
        let roles = roles.into_iter().map(|role| (text(&role.name), role.key_permission));
        Self { enabled, revision: revision.max(1), users: users.collect(), roles: roles.collect() }
    }

    /// The bcrypt hash that a password of `user` is compared with, and the revision at which it is that.
    pub fn password_of(&self, user: &str) -> Result<(Bytes, u64), Refusal> {
        if !self.enabled {
            return Err(Refusal::AuthNotEnabled);
        }
        let user = self.users.get(user).filter(|user| !user.no_password).ok_or(Refusal::AuthFailed)?;
        Ok((user.password.clone(), self.revision))
    }

    /// A user's roles.
    pub fn user(&self, name: &str) -> Result<Vec<String>, Refusal> {
        let user = self.users.get(name).ok_or(Refusal::UserNotFound)?;
        Ok(user.roles.iter().cloned().collect())
    }

    /// All users' names.
    pub fn users(&self) -> Vec<String> {
        self.users.keys().cloned().collect()
    }

    /// A role's permissions; root's is everything.
    pub fn role(&self, name: &str) -> Result<Vec<Permission>, Refusal> {
        let role = self.roles.get(name).ok_or(Refusal::RoleNotFound)?;
        if name == ROOT {
            let all = Bytes::from_static(&[0]);
            return Ok(vec![Permission { perm_type: Type::Readwrite as i32, key: Bytes::new(), range_end: all }]);
        }
        Ok(role.clone())
    }

    /// All roles' names.
    pub fn roles(&self) -> Vec<String> {
        self.roles.keys().cloned().collect()
    }

    /// Whether a user has a role.
    pub fn has_role(&self, user: &str, role: &str) -> bool {
        self.users.get(user).is_some_and(|user| user.roles.contains(role))
    }

    /// Refuses whoever is not root, while auth is enabled.
    pub fn admin(&self, who: Option<&Who>) -> Result<(), Refusal> {
        if !self.enabled {
            return Ok(());
        }
        let who = who.filter(|who| !who.user.is_empty()).ok_or(Refusal::UserEmpty)?;
        let user = self.users.get(&who.user).ok_or(Refusal::UserNotFound)?;
        if user.roles.contains(ROOT) { Ok(()) } else { Err(Refusal::PermissionDenied) }
    }

    /// Refuses who may not do this with these keys, while auth is enabled.
    pub fn keys(&self, who: Option<&Who>, range: &KeyRange, access: Access) -> Result<(), Refusal> {
        if !self.enabled {
            return Ok(());
        }
        let who = who.filter(|who| who.revision != 0).ok_or(Refusal::UserEmpty)?;
        if who.revision < self.revision {
            return Err(Refusal::AuthOldRevision);
        }
        let user = self.users.get(&who.user).ok_or(Refusal::PermissionDenied)?;
        if user.roles.contains(ROOT) {
            return Ok(());
        }
        let granted = user.roles.iter().filter_map(|role| self.roles.get(role)).flatten();
        if covers(granted, range, access) { Ok(()) } else { Err(Refusal::PermissionDenied) }
    }

    /// Does one change, or refuses it and changes nothing.
    pub fn change(&mut self, change: AuthChange) -> Result<Tokens, Refusal> {
        let tokens = match change.change.ok_or(Refusal::InvalidAuthManagement)? {
            Change::Enable(_) => return self.enable(),
            Change::Disable(_) if !self.enabled => return Ok(Tokens::Stay),
            Change::Disable(_) => {
                self.enabled = false;
                Tokens::EndAll
            }
            Change::Login(login) => return self.login(login),
            Change::UserAdd(request) => self.user_add(request)?,
            Change::UserDelete(request) => self.user_delete(&request.name)?,
            Change::UserChangePassword(request) => self.user_change_password(request)?,
            Change::UserGrantRole(request) => return self.user_grant_role(&request),
            Change::UserRevokeRole(request) => self.user_revoke_role(&request)?,
            Change::RoleAdd(request) => self.role_add(request)?,
            Change::RoleDelete(request) => self.role_delete(&request.role)?,
            Change::RoleGrantPermission(request) => self.role_grant(request)?,
            Change::RoleRevokePermission(request) => self.role_revoke(&request)?,
        };
        self.revision += 1;
        Ok(tokens)
    }

    fn enable(&mut self) -> Result<Tokens, Refusal> {
        let root = self.users.get(ROOT).ok_or(Refusal::RootUserNotExist)?;
        if !root.roles.contains(ROOT) {
            return Err(Refusal::RootRoleNotExist);
        }
        self.enabled = true;
        Ok(Tokens::Stay)
    }

    fn login(&self, Login { user, token, revision }: Login) -> Result<Tokens, Refusal> {
        let (_, now) = self.password_of(&user)?;
        if revision != now {
            return Err(Refusal::AuthOldRevision);
        }
        Ok(Tokens::Given { token, user })
    }

    fn user_add(&mut self, request: etcd::AuthUserAddRequest) -> Result<Tokens, Refusal> {
        if request.name.is_empty() {
            return Err(Refusal::UserNameEmpty);
        }
        if self.users.contains_key(&request.name) {
            return Err(Refusal::UserExists);
        }
        let no_password = request.options.is_some_and(|options| options.no_password);
        let password = if no_password { Bytes::new() } else { hashed(&request.hashed_password)? };
        self.users.insert(request.name, User { password, no_password, roles: BTreeSet::new() });
        Ok(Tokens::Stay)
    }

    fn user_delete(&mut self, name: &str) -> Result<Tokens, Refusal> {
        if self.enabled && name == ROOT {
            return Err(Refusal::InvalidAuthManagement);
        }
        self.users.remove(name).ok_or(Refusal::UserNotFound)?;
        Ok(Tokens::EndOf(name.to_owned()))
    }

    fn user_change_password(&mut self, request: etcd::AuthUserChangePasswordRequest) -> Result<Tokens, Refusal> {
        let user = self.users.get_mut(&request.name).ok_or(Refusal::UserNotFound)?;
        if !user.no_password {
            user.password = hashed(&request.hashed_password)?;
        }
        Ok(Tokens::EndOf(request.name))
    }

    fn user_grant_role(&mut self, request: &etcd::AuthUserGrantRoleRequest) -> Result<Tokens, Refusal> {
        let user = self.users.get_mut(&request.user).ok_or(Refusal::UserNotFound)?;
        if request.role != ROOT && !self.roles.contains_key(&request.role) {
            return Err(Refusal::RoleNotFound);
        }
        if user.roles.insert(request.role.clone()) {
            self.revision += 1;
        }
        Ok(Tokens::Stay)
    }

    fn user_revoke_role(&mut self, request: &etcd::AuthUserRevokeRoleRequest) -> Result<Tokens, Refusal> {
        if self.enabled && request.name == ROOT && request.role == ROOT {
            return Err(Refusal::InvalidAuthManagement);
        }
        let user = self.users.get_mut(&request.name).ok_or(Refusal::UserNotFound)?;
        if user.roles.remove(&request.role) { Ok(Tokens::Stay) } else { Err(Refusal::RoleNotGranted) }
    }

    fn role_add(&mut self, request: etcd::AuthRoleAddRequest) -> Result<Tokens, Refusal> {
        if request.name.is_empty() {
            return Err(Refusal::RoleEmpty);
        }
        if self.roles.contains_key(&request.name) {
            return Err(Refusal::RoleExists);
        }
        self.roles.insert(request.name, Vec::new());
        Ok(Tokens::Stay)
    }

    fn role_delete(&mut self, name: &str) -> Result<Tokens, Refusal> {
        if self.enabled && name == ROOT {
            return Err(Refusal::InvalidAuthManagement);
        }
        self.roles.remove(name).ok_or(Refusal::RoleNotFound)?;
        for user in self.users.values_mut() {
            user.roles.remove(name);
        }
        Ok(Tokens::Stay)
    }

    fn role_grant(&mut self, request: etcd::AuthRoleGrantPermissionRequest) -> Result<Tokens, Refusal> {
        let granted = request.perm.ok_or(Refusal::PermissionNotGiven)?;
        if !is_valid(&granted.key, &granted.range_end) {
            return Err(Refusal::InvalidAuthManagement);
        }
        let role = self.roles.get_mut(&request.name).ok_or(Refusal::RoleNotFound)?;
        let same = role.iter_mut().find(|one| one.key == granted.key && one.range_end == granted.range_end);
        match same {
            Some(known) => known.perm_type = granted.perm_type,
            None => role.push(granted),
        }
        role.sort_by(|a, b| (&a.key, &a.range_end).cmp(&(&b.key, &b.range_end)));
        Ok(Tokens::Stay)
    }

    fn role_revoke(&mut self, request: &etcd::AuthRoleRevokePermissionRequest) -> Result<Tokens, Refusal> {
        let role = self.roles.get_mut(&request.role).ok_or(Refusal::RoleNotFound)?;
        let before = role.len();
        role.retain(|granted| granted.key != request.key || granted.range_end != request.range_end);
        if role.len() == before { Err(Refusal::PermissionNotGranted) } else { Ok(Tokens::Stay) }
    }
}

fn hashed(encoded: &str) -> Result<Bytes, Refusal> {
    STANDARD.decode(encoded).map(Bytes::from).map_err(|_| Refusal::AuthFailed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn does(auth: &mut Auth, change: Change) -> Result<Tokens, Refusal> {
        let before = auth.clone();
        let done = auth.change(AuthChange { change: Some(change) });
        assert!(done.is_ok() || *auth == before, "a refused change changes nothing");
        done
    }

    fn user(name: &str) -> Change {
        Change::UserAdd(etcd::AuthUserAddRequest { name: name.to_owned(), hashed_password: "aGFzaA==".to_owned(), ..Default::default() })
    }

    fn role(name: &str) -> Change {
        Change::RoleAdd(etcd::AuthRoleAddRequest { name: name.to_owned() })
    }

    fn give(user: &str, role: &str) -> Change {
        Change::UserGrantRole(etcd::AuthUserGrantRoleRequest { user: user.to_owned(), role: role.to_owned() })
    }

    fn grant(role: &str, key: &'static str, end: &'static str, kind: Type) -> Change {
        let perm = Permission { perm_type: kind as i32, key: key.into(), range_end: end.into() };
        Change::RoleGrantPermission(etcd::AuthRoleGrantPermissionRequest { name: role.to_owned(), perm: Some(perm) })
    }

    #[test]
    fn it_is_enabled_only_with_a_root_and_root_cannot_be_lost_then() {
        let mut auth = Auth::default();
        let enable = || Change::Enable(etcd::AuthEnableRequest {});
        assert_eq!(does(&mut auth, enable()), Err(Refusal::RootUserNotExist));
        does(&mut auth, user("root")).unwrap();
        assert_eq!(does(&mut auth, user("root")), Err(Refusal::UserExists));
        assert_eq!(does(&mut auth, user("")), Err(Refusal::UserNameEmpty));
        assert_eq!(does(&mut auth, enable()), Err(Refusal::RootRoleNotExist));
        // The role root needs not be added to be granted.
        does(&mut auth, give("root", "root")).unwrap();
        does(&mut auth, enable()).unwrap();
        let name = || "root".to_owned();
        for change in [
            Change::UserDelete(etcd::AuthUserDeleteRequest { name: name() }),
            Change::RoleDelete(etcd::AuthRoleDeleteRequest { role: name() }),
            Change::UserRevokeRole(etcd::AuthUserRevokeRoleRequest { name: name(), role: name() }),
        ] {
            assert_eq!(does(&mut auth, change), Err(Refusal::InvalidAuthManagement));
        }
        let before = auth.revision();
        assert_eq!(does(&mut auth, Change::Disable(etcd::AuthDisableRequest {})), Ok(Tokens::EndAll));
        assert_eq!((auth.is_enabled(), auth.revision()), (false, before + 1));
    }

    #[test]
    fn users_may_what_their_roles_grant_as_of_the_newest_revision() {
        let mut auth = Auth::default();
        for change in [
            user("root"), give("root", "root"), user("reader"), role("r"), give("reader", "r"),
            grant("r", "a", "c", Type::Read), grant("r", "w", "", Type::Write),
        ] {
            does(&mut auth, change).unwrap();
        }
        assert_eq!(does(&mut auth, give("reader", "absent")), Err(Refusal::RoleNotFound));
        assert_eq!(does(&mut auth, grant("r", "b", "a", Type::Read)), Err(Refusal::InvalidAuthManagement));
        let range = |key: &'static str| KeyRange::new(&key.into(), &Bytes::new());
        assert_eq!(auth.keys(None, &range("x"), Access::Write), Ok(()), "nothing is checked yet");
        does(&mut auth, Change::Enable(etcd::AuthEnableRequest {})).unwrap();
        let who = |name: &str, auth: &Auth| Some(Who { user: name.to_owned(), revision: auth.revision() });
        let reader = who("reader", &auth);
        assert_eq!(auth.keys(reader.as_ref(), &range("b"), Access::Read), Ok(()));
        assert_eq!(auth.keys(reader.as_ref(), &range("b"), Access::Write), Err(Refusal::PermissionDenied));
        assert_eq!(auth.keys(reader.as_ref(), &range("w"), Access::Write), Ok(()));
        assert_eq!(auth.keys(None, &range("b"), Access::Read), Err(Refusal::UserEmpty));
        assert_eq!(auth.keys(who("nobody", &auth).as_ref(), &range("b"), Access::Read), Err(Refusal::PermissionDenied));
        assert_eq!(auth.keys(who("root", &auth).as_ref(), &range("anything"), Access::Write), Ok(()));
        assert_eq!(auth.admin(reader.as_ref()), Err(Refusal::PermissionDenied));
        does(&mut auth, Change::RoleDelete(etcd::AuthRoleDeleteRequest { role: "r".to_owned() })).unwrap();
        assert_eq!(auth.keys(reader.as_ref(), &range("b"), Access::Read), Err(Refusal::AuthOldRevision));
        assert_eq!(auth.keys(who("reader", &auth).as_ref(), &range("b"), Access::Read), Err(Refusal::PermissionDenied));
    }

    #[test]
    fn a_login_counts_only_at_the_revision_at_which_the_password_was_checked() {
        let mut auth = Auth::default();
        for change in [user("root"), give("root", "root"), Change::Enable(etcd::AuthEnableRequest {})] {
            does(&mut auth, change).unwrap();
        }
        let login = |revision| Change::Login(Login { user: "root".to_owned(), token: "t".to_owned(), revision });
        let now = auth.revision();
        assert_eq!(does(&mut auth, login(now - 1)), Err(Refusal::AuthOldRevision));
        assert!(matches!(does(&mut auth, login(now)), Ok(Tokens::Given { .. })));
        assert_eq!(auth.password_of("nobody"), Err(Refusal::AuthFailed));
        let (users, roles) = auth.stored();
        assert_eq!(Auth::restored(true, now, users, roles), auth);
    }
}
