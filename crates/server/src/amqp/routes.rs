//! Where publishes go, remembered per `basic.publish` frame: most publishes repeat an earlier one byte for byte.

use hashbrown::HashMap;
use posthouse_node::publish::SlotId;

/// What is remembered of one `basic.publish` payload.
#[derive(Clone, Debug)]
pub(crate) struct Route {
    /// The target queues; none when there are none.
    pub slot: Option<SlotId>,
    /// Whether the message is returned when it goes nowhere.
    pub mandatory: bool,
    /// Whether the targets depend on the message's properties or on chance: `slot` then says nothing.
    pub is_per_message: bool,
    /// Exchange and routing key as two short strings.
    pub bytes: Box<[u8]>,
    /// Exchange.
    pub exchange: Box<str>,
    /// Routing key.
    pub key: Box<str>,
}

/// Changes of the topology and of permissions.
pub(crate) type Epoch = (u64, u64);

/// Remembered routes; forgotten as a whole when the topology or a permission changes.
#[derive(Debug, Default)]
pub(crate) struct Routes {
    epoch: Epoch,
    by_payload: HashMap<Box<[u8]>, u32, foldhash::fast::RandomState>,
    routes: Vec<Route>,
    last_payload: Vec<u8>,
    last: usize,
}

/// Routes remembered at most.
const ROUTES_MAX: usize = 4096;

impl Routes {
    /// Whether what is remembered was made in another epoch.
    pub(crate) fn is_stale(&self, epoch: Epoch) -> bool {
        self.epoch != epoch
    }

    /// Whether to [`Self::forget`] before another one is remembered.
    pub(crate) fn is_full(&self) -> bool {
        self.routes.len() >= ROUTES_MAX
    }

    /// Forgets everything and starts an epoch.
    pub(crate) fn start(&mut self, epoch: Epoch) {
        self.forget();
        self.epoch = epoch;
    }

    /// Forgets everything.
    pub(crate) fn forget(&mut self) {
        self.by_payload.clear();
        self.routes.clear();
        self.last_payload.clear();
    }

    /// The index of the route remembered for this payload.
    #[inline]
    pub(crate) fn find(&mut self, payload: &[u8]) -> Option<usize> {
        if payload == &self.last_payload[..] {
            return Some(self.last);
        }
        let index = *self.by_payload.get(payload)? as usize;
        self.last_payload.clear();
        self.last_payload.extend_from_slice(payload);
        self.last = index;
        Some(index)
    }

    /// Remembers a route.
    pub(crate) fn insert(&mut self, payload: &[u8], route: Route) -> usize {
        let index = self.routes.len();
        self.routes.push(route);
        self.by_payload.insert(payload.into(), index as u32);
        self.last_payload.clear();
        self.last_payload.extend_from_slice(payload);
        self.last = index;
        index
    }

    /// A remembered route.
    #[inline]
    pub(crate) fn get(&self, index: usize) -> &Route {
        &self.routes[index]
    }
}
