//! When a persistent message counts as kept.

/// What a queue promises for its persistent messages: `x-durability`, or the policy key `durability`. In ascending order.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub enum Durability {
    /// `memory`: nothing; they are never written for being kept, and are lost when the broker ends.
    Memory,
    /// `relaxed`: confirmed when the operating system has them. They survive the end of the broker, however it ends, but
    /// what was confirmed last is lost when the machine ends by a crash or a loss of power.
    Relaxed,
    /// `sync`: confirmed when the disk has them. They survive that as well.
    #[default]
    Sync,
}

impl Durability {
    /// The name in arguments and policies.
    pub fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Relaxed => "relaxed",
            Self::Sync => "sync",
        }
    }

    /// Reads a name.
    pub fn from_name(name: &[u8]) -> Option<Self> {
        [Self::Memory, Self::Relaxed, Self::Sync].into_iter().find(|known| known.name().as_bytes() == name)
    }
}
