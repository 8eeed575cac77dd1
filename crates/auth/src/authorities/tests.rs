//! Logins, changes and what sessions see of them.

use posthouse_model::errors::{Permission, ResourceKind};
use posthouse_model::reply::Scope;

use super::*;

const CHEAP: HashCost = HashCost { memory_kib: 8, passes: 1 };

fn authorities() -> Authorities {
    let authorities = Authorities::new(AuthSettings { hash_cost: CHEAP, ..AuthSettings::default() });
    authorities.add_defaults("/").unwrap();
    authorities
}

fn plain(user: &str, password: &str) -> Vec<u8> {
    format!("\0{user}\0{password}").into_bytes()
}

fn login(authorities: &Authorities, user: &str, password: &str) -> Result<Arc<Identity>, Refusal> {
    authorities.authenticate("PLAIN", &plain(user, password), true)
}

fn invalid(user: &str) -> Refusal {
    Refusal::InvalidCredentials(user.to_owned())
}

#[test]
fn guest_logs_in_from_this_machine_only() {
    let authorities = authorities();
    let identity = login(&authorities, "guest", "guest").unwrap();
    assert!(
        &*identity.user == "guest" && identity.has_tag("administrator") && !identity.has_tag("monitoring")
    );
    let refusal = authorities.authenticate("PLAIN", &plain("guest", "guest"), false).unwrap_err();
    assert_eq!(refusal.to_string(), "user 'guest' can only connect via localhost");
    let cached = authorities.authenticate_cached("PLAIN", &plain("guest", "guest"), false);
    assert_eq!(cached, Some(Err(refusal)));
    authorities.add_user("bob", b"pw").unwrap();
    assert!(authorities.authenticate("PLAIN", &plain("bob", "pw"), false).is_ok());
}

#[test]
fn wrong_credentials_are_refused_alike() {
    let authorities = authorities();
    authorities.add_user("no-password", b"x").unwrap();
    authorities.clear_password("no-password").unwrap();
    let imported = User {
        name: Name::truncated("imported"),
        password: PasswordHash::from_text("sha256", "kI3GCqW5JLMJa4iX1lo7X4D6XbYqlLgxIs30+P6tENUV2POR").ok(),
        tags: Vec::new(),
        limits: UserLimits::default(),
    };
    authorities.restore(AuthChange::PutUser(imported)).unwrap();
    assert!(login(&authorities, "imported", "test12").is_ok());
    for (user, password) in
        [("guest", "x"), ("guest", ""), ("nobody", "x"), ("", ""), ("no-password", "x"), ("imported", "x")]
    {
        let refusal = login(&authorities, user, password).unwrap_err();
        assert_eq!(refusal, invalid(user), "{password}");
        let reply = refusal.reply("PLAIN").unwrap();
        assert_eq!((reply.code as u16, reply.scope), (403, Scope::Connection));
        assert_eq!(authorities.authenticate_cached("PLAIN", &plain(user, password), true), None);
    }
}

#[test]
fn mechanisms() {
    let authorities = authorities();
    let amqplain = b"\x05LOGINS\0\0\0\x05guest\x08PASSWORDS\0\0\0\x05guest";
    assert!(authorities.authenticate("AMQPLAIN", amqplain, true).is_ok());
    let anonymous = authorities.authenticate("ANONYMOUS", b"", true).unwrap();
    assert_eq!(&*anonymous.user, "guest");
    assert_eq!(
        authorities.authenticate("ANONYMOUS", b"", false),
        Err(Refusal::OnlyLoopback("guest".to_owned()))
    );
    assert!(matches!(authorities.authenticate_cached("ANONYMOUS", b"", true), Some(Ok(_))));
    for (mechanism, response) in [("EXTERNAL", &b""[..]), ("CRAM-MD5", b""), ("plain", b"\0guest\0guest")] {
        let refusal = authorities.authenticate(mechanism, response, true).unwrap_err();
        assert_eq!(refusal, Refusal::UnknownMechanism(mechanism.to_owned()));
        assert_eq!(refusal.reply(mechanism), None);
    }
    let malformed = authorities.authenticate_cached("PLAIN", b"guest", true);
    assert_eq!(malformed, Some(Err(Refusal::MalformedResponse("PLAIN"))));
    let settings = AuthSettings { anonymous_user: None, hash_cost: CHEAP, ..AuthSettings::default() };
    assert!(Authorities::new(settings).authenticate("ANONYMOUS", b"", true).is_err());
}

#[test]
fn a_verified_login_is_remembered_until_the_password_changes() {
    let authorities = authorities();
    let response = plain("guest", "guest");
    assert_eq!(authorities.authenticate_cached("PLAIN", &response, true), None);
    login(&authorities, "guest", "guest").unwrap();
    assert!(matches!(authorities.authenticate_cached("PLAIN", &response, true), Some(Ok(_))));
    assert_eq!(authorities.authenticate_cached("PLAIN", &plain("guest", "gues"), true), None);
    authorities.change_password("guest", b"guest").unwrap();
    assert_eq!(authorities.authenticate_cached("PLAIN", &response, true), None);
    login(&authorities, "guest", "guest").unwrap();
    authorities.clear_password("guest").unwrap();
    assert_eq!(authorities.authenticate_cached("PLAIN", &response, true), None);
    assert_eq!(login(&authorities, "guest", "guest"), Err(invalid("guest")));
}

#[test]
fn changes_are_checked() {
    let authorities = authorities();
    let no_bob = AuthError::NoSuchUser("bob".to_owned());
    assert_eq!(authorities.delete_user("bob"), Err(no_bob.clone()));
    assert_eq!(authorities.change_password("bob", b"x"), Err(no_bob.clone()));
    assert_eq!(authorities.clear_password("bob"), Err(no_bob.clone()));
    assert_eq!(authorities.set_user_tags("bob", vec![]), Err(no_bob.clone()));
    assert_eq!(authorities.set_permissions("bob", "/", "", "", ""), Err(no_bob.clone()));
    assert_eq!(authorities.clear_permissions("bob", "/"), Err(no_bob));
    assert_eq!(authorities.add_user("guest", b"x"), Err(AuthError::UserExists("guest".to_owned())));
    assert_eq!(authorities.add_user("bob", b""), Err(AuthError::Password(PasswordError::Blank)));
    assert_eq!(authorities.add_user("", b"x"), Err(AuthError::InvalidName(0)));
    assert_eq!(authorities.add_user(&"x".repeat(256), b"x"), Err(AuthError::InvalidName(256)));
    let bad = authorities.set_permissions("guest", "/", "(", "", "");
    assert!(matches!(bad, Err(AuthError::Pattern(_))));
    assert_eq!(authorities.clear_permissions("guest", "none here"), Ok(vec![]));
}

#[test]
fn sessions_notice_changes() {
    let authorities = authorities();
    authorities.add_user("bob", b"pw").unwrap();
    let refused = authorities.access("bob", "/").unwrap_err();
    assert_eq!(
        (refused.code as u16, refused.text.as_str()),
        (530, "access to vhost '/' refused for user 'bob'")
    );
    authorities.set_permissions("bob", "/", "", "^w", ".*").unwrap();
    let mut access = authorities.access("bob", "/").unwrap();
    assert_eq!(authorities.refresh(&mut access), Freshness::Unchanged);
    assert_eq!(access.check(Permission::Write, ResourceKind::Queue, "w"), Ok(()));
    authorities.set_permissions("bob", "/", "", "^x", ".*").unwrap();
    assert_eq!(authorities.refresh(&mut access), Freshness::Changed);
    assert!(access.check(Permission::Write, ResourceKind::Queue, "w").is_err());
    assert_eq!(authorities.refresh(&mut access), Freshness::Unchanged);
    assert_eq!(access.check(Permission::Read, ResourceKind::Queue, "r"), Ok(()));
    authorities.clear_permissions("bob", "/").unwrap();
    assert_eq!(authorities.refresh(&mut access), Freshness::Revoked);
    assert!(access.check(Permission::Read, ResourceKind::Queue, "r").is_err());
    authorities.set_permissions("bob", "/", "", "", "").unwrap();
    assert_eq!(authorities.refresh(&mut access), Freshness::Changed);
    authorities.delete_user("bob").unwrap();
    assert_eq!(authorities.refresh(&mut access), Freshness::Revoked);
    assert_eq!(authorities.identity("bob"), None);
}

#[test]
fn deleting_takes_permissions_along() {
    let authorities = authorities();
    authorities.set_permissions("guest", "v", "", "", "").unwrap();
    let (user, vhost) = (Name::truncated("guest"), Name::truncated("v"));
    let gone = AuthChange::DeletePermissions { user: user.clone(), vhost };
    assert_eq!(authorities.forget_vhost("v"), [gone]);
    let vhost = Name::truncated("/");
    let expected =
        vec![AuthChange::DeletePermissions { user: user.clone(), vhost }, AuthChange::DeleteUser(user)];
    assert_eq!(authorities.delete_user("guest"), Ok(expected));
    assert!(authorities.users().is_empty() && authorities.permissions().is_empty());
}

#[test]
fn what_was_written_makes_the_same_registry() {
    let authorities = Authorities::new(AuthSettings { hash_cost: CHEAP, ..AuthSettings::default() });
    let mut changes = authorities.add_defaults("/").unwrap();
    changes.extend(authorities.add_user("bob", b"pw").unwrap());
    changes.extend(authorities.set_permissions("bob", "v", "c", "w", "r").unwrap());
    changes.extend(authorities.set_user_tags("bob", vec!["monitoring".to_owned()]).unwrap());
    changes.extend(authorities.clear_permissions("guest", "/").unwrap());
    let restored = Authorities::new(AuthSettings::default());
    for change in changes {
        restored.restore(change).unwrap();
    }
    assert_eq!(restored.users(), authorities.users());
    assert_eq!(restored.permissions(), authorities.permissions());
    assert_eq!(restored.permissions()[0].write, "w");
    assert!(login(&restored, "bob", "pw").is_ok() && restored.identity("bob").unwrap().has_tag("monitoring"));
}

#[test]
fn topic_permissions_bound_keys_until_they_are_cleared() {
    let authorities = authorities();
    let mut access = authorities.access("guest", "/").unwrap();
    assert!(!access.has_topics());
    let put = authorities.set_topic_permissions("guest", "/", "t", "^{username}$", "").unwrap();
    authorities.set_topic_permissions("guest", "/", "u", ".*", ".*").unwrap();
    assert_eq!(authorities.refresh(&mut access), Freshness::Changed);
    assert!(access.has_topics());
    assert_eq!(access.check_topic(Permission::Write, "t", "guest"), Ok(()));
    assert_eq!(access.check_topic(Permission::Write, "t", "x").unwrap_err().scope, Scope::Channel);
    assert!(access.check_topic(Permission::Read, "t", "guest").is_err());
    assert_eq!(access.check_topic(Permission::Write, "other", "x"), Ok(()));
    let records = authorities.topic_permissions();
    assert_eq!(put, [AuthChange::PutTopicPermissions(records[0].clone())]);
    let gone = authorities.clear_topic_permissions("guest", "/", Some("t")).unwrap();
    let expected = |exchange: &str| AuthChange::DeleteTopicPermissions {
        user: Name::truncated("guest"),
        vhost: Name::truncated("/"),
        exchange: Name::truncated(exchange),
    };
    assert_eq!(gone, [expected("t")]);
    assert_eq!(authorities.clear_topic_permissions("guest", "/", Some("t")).unwrap(), []);
    authorities.refresh(&mut access);
    assert_eq!(access.check_topic(Permission::Write, "t", "x"), Ok(()));
    assert!(access.has_topics());
    assert_eq!(authorities.clear_topic_permissions("guest", "/", None).unwrap(), [expected("u")]);
    authorities.refresh(&mut access);
    assert!(!access.has_topics());
    authorities.restore(put[0].clone()).unwrap();
    assert_eq!(authorities.topic_permissions().len(), 1);
    assert!(authorities.forget_vhost("/").contains(&expected("t")));
    let nobody = authorities.set_topic_permissions("nobody", "/", "t", "", "");
    assert_eq!(nobody, Err(AuthError::NoSuchUser("nobody".into())));
}

#[test]
fn limits_belong_to_the_user() {
    let authorities = authorities();
    let limits = UserLimits { max_connections: Some(1), ..UserLimits::default() };
    authorities.set_user_limits("guest", limits.clone()).unwrap();
    assert_eq!(authorities.user_limits("guest"), Some(limits));
    assert_eq!(authorities.user_limits("nobody"), None);
    assert!(authorities.set_user_limits("nobody", UserLimits::default()).is_err());
}
