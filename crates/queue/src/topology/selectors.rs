//! The JMS topic exchange: the selectors of its bindings against messages. Keys are not looked at: what has to do with
//! topics was decided by the topic exchange that it is bound to.

use foldhash::fast::RandomState;
use hashbrown::HashMap;
use posthouse_model::errors;
use posthouse_model::field::{FieldTable, FieldValue};
use posthouse_model::name::Name;
use posthouse_model::props::HeaderView;
use posthouse_model::reply::ReplyError;
use posthouse_model::selector::{InvalidSelector, Selector, Steps};

use super::Destination;
use super::bindings::argument_bytes;
use super::dense_map::DenseMap;

/// The binding argument with a selector as RabbitMQ's JMS client compiles it.
const COMPILED: &str = "rjms_erlang_selector";
/// The binding argument with a selector as JMS defines it.
const TEXT: &str = "rjms_selector";

/// The bindings of a JMS topic exchange. Every message is compared with every one of them.
#[derive(Debug, Default)]
pub(super) struct SelectorTable {
    bindings: HashMap<Destination, Selectors, RandomState>,
}

/// One destination's bindings, by key and arguments.
type Selectors = DenseMap<(Name, Box<[u8]>), Selector>;

/// Reads one way to write a selector.
type Reader = fn(&str) -> Result<Selector, InvalidSelector>;

/// Reads binding arguments: 406 when there is not one selector, or it is none.
pub(super) fn parse(arguments: &FieldTable) -> Result<Selector, ReplyError> {
    let (name, value, read): (_, _, Reader) = match (arguments.get(COMPILED), arguments.get(TEXT)) {
        (Some(value), None) => (COMPILED, value, Selector::parse_term),
        (None, Some(value)) => (TEXT, value, Selector::parse),
        (None, None) => {
            return Err(errors::invalid_selector(&format!(
                "expected the argument {COMPILED} or {TEXT}, got none"
            )));
        }
        (Some(_), Some(_)) => {
            return Err(errors::invalid_selector(&format!("expected {COMPILED} or {TEXT}, got both")));
        }
    };
    let FieldValue::LongStr(bytes) = value else {
        let problem = format!("expected {name} to be a longstr, got {}", value.type_name());
        return Err(errors::invalid_selector(&problem));
    };
    let text = str::from_utf8(bytes)
        .map_err(|_| errors::invalid_selector(&format!("expected {name} to be UTF-8, got other bytes")))?;
    read(text).map_err(|problem| errors::invalid_selector(&format!("{name}: {problem}")))
}

impl SelectorTable {
    /// Adds a binding. Its arguments were validated.
    pub(super) fn insert(&mut self, destination: Destination, key: &Name, arguments: &FieldTable) {
        if let Ok(selector) = parse(arguments) {
            let key = (key.clone(), argument_bytes(arguments));
            self.bindings.entry(destination).or_default().insert(key, selector);
        }
    }

    /// Removes a binding.
    pub(super) fn remove(&mut self, destination: Destination, key: &Name, arguments: &FieldTable) {
        let Some(selectors) = self.bindings.get_mut(&destination) else { return };
        selectors.remove(&(key.clone(), argument_bytes(arguments)));
        if selectors.is_empty() {
            self.bindings.remove(&destination);
        }
    }

    /// The destinations whose selectors select a message, each once, in no particular order; as far as the steps last.
    pub(super) fn matching(
        &self,
        header: Option<HeaderView<'_>>,
        steps: &Steps,
    ) -> impl Iterator<Item = Destination> {
        self.bindings
            .iter()
            .take_while(|_| steps.are_left())
            .filter(move |(_, selectors)| {
                header.is_some_and(|header| {
                    selectors.values().any(|selector| selector.matches_within(header, steps))
                })
            })
            .map(|(destination, _)| *destination)
    }
}

#[cfg(test)]
mod tests {
    use posthouse_model::ids::QueueId;
    use posthouse_model::props::Properties;

    use super::*;

    #[test]
    fn a_message_is_compared_until_its_steps_are_used_up() {
        let mut table = SelectorTable::default();
        // Each looks at 500 headers 200 times, and selects in the end.
        let selector = format!("{} none IS NULL", "none = 1 OR ".repeat(199));
        for queue in 0..10 {
            let arguments = FieldTable(vec![(TEXT.to_owned(), FieldValue::string(&selector))]);
            table.insert(Destination::Queue(QueueId(queue)), &Name::new("").unwrap(), &arguments);
        }
        let headers = (0..500).map(|number| (number.to_string(), FieldValue::Bool(true))).collect();
        let mut header = Vec::new();
        Properties { headers: Some(FieldTable(headers)), ..Properties::default() }.encode(0, &mut header);
        let header = HeaderView::parse(&header).unwrap();
        assert_eq!(table.matching(Some(header), &Steps::new(350_000)).count(), 3);
        assert_eq!(table.matching(Some(header), &Steps::default()).count(), 10);
    }
}
