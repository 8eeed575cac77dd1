//! Runtime parameters: of the broker as a whole, and those of virtual hosts that mean nothing here.

use std::collections::BTreeMap;
use std::sync::PoisonError;

use posthouse_model::field::FieldValue;
use serde_json::Value;

use super::Broker;
use crate::records;
use crate::vhost::VirtualHost;

impl Broker {
    /// Parameters of the broker as a whole, by name.
    pub fn global_parameters(&self) -> BTreeMap<String, Value> {
        self.lock_parameters().clone()
    }

    /// Sets a parameter of the broker as a whole.
    pub(crate) fn put_global_parameter(&self, name: &str, value: Value) {
        let mut parameters = self.lock_parameters();
        // Under the lock, so that changes are kept in the order in which they were made.
        self.keep(vec![records::put_global_parameter(name, &value)]);
        self.events.emit("parameter.set", |fields| {
            fields
                .text("component", "global")
                .text("name", name)
                .with("value", FieldValue::string(&value.to_string()))
        });
        parameters.insert(name.to_owned(), value);
    }

    /// Removes one; false when there is none of that name.
    pub(crate) fn remove_global_parameter(&self, name: &str) -> bool {
        let mut parameters = self.lock_parameters();
        let removed = parameters.remove(name).is_some();
        if removed {
            self.keep(vec![records::delete_global_parameter(name)]);
            self.events
                .emit("parameter.cleared", |fields| fields.text("component", "global").text("name", name));
        }
        removed
    }

    /// Makes one known that was read back.
    pub(crate) fn restore_global_parameter(&self, name: String, value: Value) {
        self.lock_parameters().insert(name, value);
    }

    fn lock_parameters(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Value>> {
        self.parameters.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets a parameter of a virtual host that means nothing here.
    pub(crate) fn put_parameter(&self, vhost: &VirtualHost, component: String, name: String, value: Value) {
        vhost.change(|inner| {
            self.keep(vec![records::put_parameter(vhost.name(), &component, &name, &value)]);
            inner.parameters.insert((component, name), value);
        });
    }
}
