//! Logins, changes and what sessions see of them.

use posthouse_model::errors::{Permission, ResourceKind};
use posthouse_model::reply::Scope;
use posthouse_model::shares::UserNumber;

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
        number: UserNumber::NOBODY,
    };
    authorities.put_user(imported).unwrap();
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
fn numbers_are_not_given_again() {
    let number = |authorities: &Authorities, user: &str| authorities.identity(user).unwrap().number.0;
    let authorities = authorities();
    authorities.add_user("bob", b"pw").unwrap();
    assert_eq!((number(&authorities, "guest"), number(&authorities, "bob")), (1, 2));
    let bob = authorities.users().into_iter().find(|user| &*user.name == "bob").unwrap();
    authorities.delete_user("bob").unwrap();
    let changes = authorities.put_user(User { number: UserNumber(1), ..bob.clone() }).unwrap();
    assert_eq!(changes, [AuthChange::PutUser(User { number: UserNumber(3), ..bob.clone() })]);
    authorities.put_user(User { tags: vec!["t".into()], ..bob.clone() }).unwrap();
    assert_eq!(number(&authorities, "bob"), 3);
    assert!(authorities.identity("bob").unwrap().has_tag("t"));

    // Users of an older version get one after a restart, above all that were ever seen.
    let restored = Authorities::new(AuthSettings::default());
    for number in [0, 7] {
        let name = Name::truncated(&format!("user-{number}"));
        let user = User { name, number: UserNumber(number), ..bob.clone() };
        restored.restore(AuthChange::PutUser(user)).unwrap();
    }
    let changes = restored.number_users(UserNumber(50));
    assert_eq!(changes.len(), 1);
    assert_eq!((number(&restored, "user-0"), number(&restored, "user-7")), (51, 7));
    assert_eq!(restored.number_users(UserNumber(50)), []);

    // When all have been given, those that nobody has are given again.
    assert_eq!(restored.number_users(UserNumber(u16::MAX)), []);
    for name in ["a", "b"] {
        restored.put_user(User { name: Name::truncated(name), ..bob.clone() }).unwrap();
    }
    assert_eq!((number(&restored, "a"), number(&restored, "b")), (1, 2));
}

#[test]
fn whoever_has_no_number_has_no_limit_that_needs_one() {
    let authorities = authorities();
    for number in 2..=u16::MAX {
        let (name, number) = (Name::truncated(&number.to_string()), UserNumber(number));
        let (password, tags, limits) = Default::default();
        authorities.restore(AuthChange::PutUser(User { name, password, tags, limits, number })).unwrap();
    }
    authorities.add_user("bob", b"pw").unwrap();
    let bob = authorities.users().into_iter().find(|user| &*user.name == "bob").unwrap();
    assert_eq!(bob.number, UserNumber::NOBODY);
    let limits = UserLimits { max_stored_bytes: Some(5), ..UserLimits::default() };
    let refused = authorities.set_user_limits("bob", limits.clone()).unwrap_err();
    let expected =
        "user 'bob' cannot have the limit max-stored-bytes: expected at most 65535 users, got more";
    assert_eq!(refused.to_string(), expected);
    assert_eq!(authorities.put_user(User { limits: limits.clone(), ..bob }).unwrap_err(), refused);
    assert_eq!(authorities.stored_limits(), []);
    authorities.set_user_limits("2", limits).unwrap();
    assert_eq!(authorities.stored_limits().len(), 1);
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
