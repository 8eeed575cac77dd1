//! How many files and sockets the process may have open, and how many of them may be sockets.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Files that are not the data directory's: standard streams, listeners, the control socket with its connections, what
/// the runtime needs.
const OTHERS: usize = 32;

/// Raises the soft limit to the hard one, which is ours to use: the usual soft limit of 1024 is less than a thousand
/// connections need. The limit that holds then; none when there is none.
pub(crate) fn allow_many() -> Option<u64> {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
    getrlimit(Resource::Nofile).current
}

/// How many connections' sockets may be open, of `wanted`: as many as leave enough for `own` files of the data
/// directory, or half of all where the limit is so low that this leaves less. Were it more, connections could keep the
/// log from its next file, and with it every publisher.
pub(crate) fn for_sockets(limit: Option<u64>, own: usize, wanted: usize) -> usize {
    let Some(limit) = limit else { return wanted };
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    wanted.min(limit.saturating_sub(own + OTHERS).max(limit / 2))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_leave_the_broker_its_own_files() {
        assert_eq!(for_sockets(None, 200, 131_072), 131_072);
        assert_eq!(for_sockets(Some(1_048_576), 200, 131_072), 131_072);
        assert_eq!(for_sockets(Some(1_024), 200, 131_072), 1_024 - 232);
        assert_eq!(for_sockets(Some(1_024), 200, 20), 20);
        assert_eq!(for_sockets(Some(256), 200, 131_072), 128);
        assert!(allow_many().is_none_or(|limit| limit > 0));
    }
}
