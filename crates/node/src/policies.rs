//! The policies of one virtual host: which of them applies to a queue or an exchange.
//!
//! Patterns are matched when an object is declared and, against every object, when a policy changes; never per
//! message. They are RabbitMQ's regular expressions, look-around and back-references included, so matching may
//! backtrack: a match that takes more than `BACKTRACK_LIMIT` steps counts as none.

use std::sync::Arc;

use fancy_regex::{Regex, RegexBuilder};
use hashbrown::HashMap;
use posthouse_model::args::QueueKind;
use posthouse_model::name::Name;
use posthouse_model::policy::{self, Definition, InvalidPolicy, Object, Policy, PolicyKind, PolicySettings};

use posthouse_model::queue_settings::QueueSettings;
use posthouse_storage::meta::MetaOp;

use crate::broker::Broker;
use crate::deliver;
use crate::queue_handle::QueueHandle;
use crate::records;
use crate::schedule;
use crate::vhost::{Inner, REPLY_QUEUE_PREFIX, VirtualHost};

/// Steps a match of a name, which has 255 bytes at most, may take.
const BACKTRACK_LIMIT: usize = 10_000;
/// Bytes a compiled pattern may take.
const PATTERN_SIZE_LIMIT: usize = 1 << 20;

/// What applies to an object. Shared by all objects to which the same policies apply.
#[derive(Debug)]
pub struct AppliedPolicy {
    /// The policy's name.
    pub policy: Option<Name>,
    /// The operator policy's name.
    pub operator_policy: Option<Name>,
    /// What both say together.
    pub definition: Definition,
    /// The same, typed.
    pub settings: PolicySettings,
}

/// See the module's documentation.
#[derive(Debug, Default)]
pub struct Policies {
    user: Vec<Compiled>,
    operator: Vec<Compiled>,
    /// What pairs of policies say together.
    merged: HashMap<Places, Arc<AppliedPolicy>, foldhash::fast::RandomState>,
}

/// The places in the two lists of the policies that apply to an object.
type Places = (Option<usize>, Option<usize>);

#[derive(Debug)]
struct Compiled {
    policy: Policy,
    regex: Regex,
}

impl Policies {
    /// Adds a policy or replaces the one of that name.
    ///
    /// # Errors
    /// When its pattern is no regular expression.
    pub fn set(&mut self, kind: PolicyKind, policy: Policy) -> Result<(), InvalidPolicy> {
        let regex = compile(&policy.pattern)?;
        let list = self.list_mut(kind);
        list.retain(|known| known.policy.name != policy.name);
        list.push(Compiled { policy, regex });
        // The first that matches applies. Among equals it is the one whose name comes first.
        list.sort_by(|a, b| {
            b.policy.priority.cmp(&a.policy.priority).then_with(|| a.policy.name.cmp(&b.policy.name))
        });
        self.merged.clear();
        Ok(())
    }

    /// Removes a policy; false when there is none of that name.
    pub fn clear(&mut self, kind: PolicyKind, name: &str) -> bool {
        let list = self.list_mut(kind);
        let before = list.len();
        list.retain(|known| &*known.policy.name != name);
        let cleared = list.len() < before;
        self.merged.clear();
        cleared
    }

    /// All policies of a kind, in the order in which they are tried.
    pub fn list(&self, kind: PolicyKind) -> impl Iterator<Item = &Policy> {
        let list = match kind {
            PolicyKind::User => &self.user,
            PolicyKind::Operator => &self.operator,
        };
        list.iter().map(|known| &known.policy)
    }

    /// What makes the metadata store forget all of them, because their virtual host is deleted.
    pub(crate) fn forget(&self, vhost: &str) -> Vec<MetaOp> {
        let of_kind = |kind: PolicyKind| {
            self.list(kind)
                .map(move |policy| records::delete_parameter(vhost, kind.component(), &policy.name))
        };
        PolicyKind::ALL.into_iter().flat_map(of_kind).collect()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.user.is_empty() && self.operator.is_empty()
    }

    /// What applies to an object; nothing when no pattern matches its name. Remembered for the next such object.
    pub fn applied(&mut self, object: Object, name: &str) -> Option<Arc<AppliedPolicy>> {
        let places = self.places(object, name)?;
        if let Some(known) = self.merged.get(&places) {
            return Some(known.clone());
        }
        let applied = Arc::new(self.merge(places));
        self.merged.insert(places, applied.clone());
        Some(applied)
    }

    /// The same as [`Self::applied`], without remembering it.
    pub fn applied_now(&self, object: Object, name: &str) -> Option<AppliedPolicy> {
        self.places(object, name).map(|places| self.merge(places))
    }

    fn places(&self, object: Object, name: &str) -> Option<Places> {
        let first = |list: &[Compiled]| list.iter().position(|known| known.matches(object, name));
        Some((first(&self.user), first(&self.operator))).filter(|places| *places != (None, None))
    }

    fn merge(&self, (user, operator): Places) -> AppliedPolicy {
        let user = user.map(|place| &self.user[place].policy);
        let operator = operator.map(|place| &self.operator[place].policy);
        let definition = policy::merged(user.map(|p| &p.definition), operator.map(|p| &p.definition));
        AppliedPolicy {
            policy: user.map(|policy| policy.name.clone()),
            operator_policy: operator.map(|policy| policy.name.clone()),
            settings: PolicySettings::of_merged(&definition),
            definition,
        }
    }

    fn list_mut(&mut self, kind: PolicyKind) -> &mut Vec<Compiled> {
        match kind {
            PolicyKind::User => &mut self.user,
            PolicyKind::Operator => &mut self.operator,
        }
    }
}

/// What a queue is to policies.
pub(crate) fn object(kind: QueueKind) -> Object {
    match kind {
        QueueKind::Classic => Object::ClassicQueue,
        QueueKind::Quorum => Object::QuorumQueue,
        QueueKind::Stream => Object::Stream,
    }
}

/// What a queue is to do: its arguments and the policies that apply to it, together. Called when it is declared, when it is
/// read back, and whenever the policies change.
pub(crate) fn effective_settings(declared: QueueSettings, applied: Option<&AppliedPolicy>) -> QueueSettings {
    match applied {
        Some(applied) => declared.under(&applied.settings.queue),
        None => declared,
    }
}

/// Matches every queue and exchange again, because the policies have changed, and lets queues and exchanges feel it.
pub(crate) fn apply(broker: &Broker, vhost: &VirtualHost) {
    let changed = vhost.change(Inner::apply_policies);
    // Not under the lock of the virtual host: messages that leave a queue by this are told to the log.
    for queue in &changed {
        deliver::put_in_force(broker, queue);
    }
    if !changed.is_empty() {
        vhost.change(|inner| inner.topology.forget_routes());
    }
}

impl Inner {
    /// Gives exchanges what their policies say now, and notes with queues what applies to them; the queues that are to do
    /// something else by that.
    fn apply_policies(&mut self) -> Vec<Arc<QueueHandle>> {
        self.apply_exchange_policies();
        let queues: Vec<_> = self.queues.values().cloned().collect();
        let mut changed = Vec::new();
        for queue in queues {
            let differs = {
                let mut state = queue.lock();
                let applied = self.queue_policy(object(state.setup.kind()), &queue.definition.name);
                let settings = effective_settings(state.setup.settings(), applied.as_deref());
                state.policy = applied;
                *state.machine.settings() != settings
            };
            if differs {
                changed.push(queue);
            }
        }
        changed
    }

    /// Gives every exchange what its policies say now.
    pub(crate) fn apply_exchange_policies(&mut self) {
        let exchanges: Vec<_> =
            self.topology.exchanges().into_iter().map(|exchange| exchange.name.clone()).collect();
        for exchange in &exchanges {
            self.apply_exchange_policy(exchange);
        }
    }

    /// What policies say to a queue; nothing to those behind `amq.rabbitmq.reply-to` and to that of the schedule.
    pub(crate) fn queue_policy(&mut self, object: Object, name: &str) -> Option<Arc<AppliedPolicy>> {
        if name.starts_with(REPLY_QUEUE_PREFIX) || name == schedule::QUEUE_NAME {
            return None;
        }
        self.policies.applied(object, name)
    }

    /// Gives an exchange what its policies say.
    pub(crate) fn apply_exchange_policy(&mut self, name: &str) {
        let alternate =
            self.exchange_policy(name).and_then(|applied| applied.settings.exchange.alternate_exchange);
        self.topology.set_alternate_by_policy(name, alternate);
    }

    /// What policies say to an exchange; nothing to the default exchange.
    pub(crate) fn exchange_policy(&self, name: &str) -> Option<AppliedPolicy> {
        if name.is_empty() { None } else { self.policies.applied_now(Object::Exchange, name) }
    }
}

impl Compiled {
    fn matches(&self, object: Object, name: &str) -> bool {
        if !self.policy.apply_to.covers(object) {
            return false;
        }
        self.regex.is_match(name).unwrap_or_else(|problem| {
            let (policy, pattern) = (&*self.policy.name, &*self.policy.pattern);
            tracing::warn!(policy, pattern, name, %problem, "a policy's pattern cannot be matched with this name");
            false
        })
    }
}

/// Compiles a policy's pattern.
///
/// # Errors
/// When it is no regular expression; the text begins as RabbitMQ's does.
pub fn compile(pattern: &str) -> Result<Regex, InvalidPolicy> {
    let built = RegexBuilder::new(pattern)
        .backtrack_limit(BACKTRACK_LIMIT)
        .delegate_size_limit(PATTERN_SIZE_LIMIT)
        .build();
    built.map_err(|problem| {
        let problem = problem.to_string();
        // The library's texts have a drawing above the last line.
        let last = problem.lines().last().unwrap_or_default().trim();
        InvalidPolicy(format!("pattern should be regular expression but is invalid: {last}"))
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn policy(name: &str, value: &Value) -> Policy {
        Policy::from_value(name, value, PolicyKind::User).unwrap()
    }

    fn set(policies: &mut Policies, kind: PolicyKind, name: &str, pattern: &str, priority: i64) {
        let definition = json!({"queue-version": if name.ends_with('1') { 1 } else { 2 }});
        let value = json!({"pattern": pattern, "definition": definition, "priority": priority});
        policies.set(kind, policy(name, &value)).unwrap();
    }

    fn names(policies: &mut Policies, queue: &str) -> (Option<String>, Option<String>) {
        let Some(applied) = policies.applied(Object::ClassicQueue, queue) else { return (None, None) };
        let text = |name: &Option<Name>| name.as_ref().map(|name| name.to_string());
        (text(&applied.policy), text(&applied.operator_policy))
    }

    #[test]
    fn the_highest_priority_that_matches_applies() {
        let mut policies = Policies::default();
        assert!(policies.is_empty());
        set(&mut policies, PolicyKind::User, "low", "^a", -1);
        set(&mut policies, PolicyKind::User, "b", "a", 3);
        set(&mut policies, PolicyKind::User, "a", "a", 3);
        set(&mut policies, PolicyKind::User, "high", "^aa$", 7);
        set(&mut policies, PolicyKind::Operator, "op", "z|aa", 0);
        let some = |name: &str| Some(name.to_owned());
        for (queue, expected) in [
            ("aa", (some("high"), some("op"))),
            ("xaax", (some("a"), some("op"))),
            ("ab", (some("a"), None)),
            ("z", (None, some("op"))),
            ("q", (None, None)),
        ] {
            assert_eq!(names(&mut policies, queue), expected, "{queue}");
        }
        assert!(policies.clear(PolicyKind::User, "a") && !policies.clear(PolicyKind::User, "a"));
        assert_eq!(names(&mut policies, "ab"), (some("b"), None));
        set(&mut policies, PolicyKind::User, "b", "^x", 3);
        assert_eq!(names(&mut policies, "ab"), (some("low"), None), "replaced, not added");
    }

    #[test]
    fn objects_share_what_applies_to_them() {
        let mut policies = Policies::default();
        set(&mut policies, PolicyKind::User, "v1", "^a", 0);
        set(&mut policies, PolicyKind::Operator, "o", "^a", 0);
        let applied = policies.applied(Object::ClassicQueue, "a1").unwrap();
        assert_eq!(Value::Object(applied.definition.clone()), json!({"queue-version": 2}));
        assert!(Arc::ptr_eq(&applied, &policies.applied(Object::Exchange, "a2").unwrap()));
    }

    #[test]
    fn patterns_are_rabbitmqs() {
        let matches = |pattern: &str, name: &str| {
            let value = json!({"pattern": pattern, "definition": {"queue-version": 2}});
            let mut policies = Policies::default();
            policies.set(PolicyKind::User, policy("p", &value)).unwrap();
            policies.applied(Object::ClassicQueue, name).is_some()
        };
        assert!(matches("", "anything") && matches("b", "abc"));
        assert!(matches(r"^(?!amq\.).*", "orders") && !matches(r"^(?!amq\.).*", "amq.gen-1"));
        assert!(matches(r"^(.)\1$", "aa") && !matches(r"^(.)\1$", "ab"));
        let long = "a".repeat(255);
        assert!(!matches(r"^((a|aa)+)\1b$", &long), "gives up instead of trying for ever");
        for pattern in ["(", "a**", "[", "(a{1000}){1000}"] {
            let text = compile(pattern).unwrap_err().to_string();
            assert!(text.starts_with("pattern should be regular expression but is invalid: "), "{text}");
            assert!(text.len() > 60 && !text.contains('\n'), "{text}");
        }
    }
}
