//! Topic filters in a trie: words split by a separator, one wildcard for exactly one word, one for any number.
//!
//! Words are interned as numbers, and all edges of all nodes live in one hash map keyed by (node, word): a node
//! costs the same whether it has one child or a million. Matching follows at most three edges per node and
//! word, so its cost grows with what matches and not with how many filters there are.
//!
//! Knows no exchanges: values are whatever the caller binds. The words are those of AMQP topic exchanges
//! (`.`, `*`, `#`) unless [`Wildcards`] says otherwise.

use std::hash::Hash;

use foldhash::{fast, quality};
use hashbrown::{HashMap, HashSet};

use super::destinations::DenseSet;

/// No such node.
const NONE: u32 = u32::MAX;
/// The node every filter starts at.
const ROOT: u32 = 0;
/// A word that no filter contains.
const UNKNOWN_WORD: u32 = u32::MAX;

/// How filters are written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Wildcards {
    /// Between words.
    pub separator: char,
    /// Stands for exactly one word.
    pub one: &'static str,
    /// Stands for any number of words, none included.
    pub many: &'static str,
}

impl Wildcards {
    /// AMQP topic exchanges.
    pub const AMQP: Self = Self { separator: '.', one: "*", many: "#" };

    /// The words of a key or filter; the empty one has none.
    pub fn words<'a>(&self, key: &'a str) -> impl Iterator<Item = &'a str> + use<'a> {
        let mut words = key.split(self.separator);
        if key.is_empty() {
            words.next();
        }
        words
    }
}

/// A set of (filter, value) pairs.
#[derive(Debug)]
pub struct Trie<V: Copy + Eq + Hash> {
    wildcards: Wildcards,
    nodes: Vec<Node<V>>,
    /// Nodes that were given back.
    free: Vec<u32>,
    edges: HashMap<(u32, u32), u32, fast::RandomState>,
    words: HashMap<Box<str>, Word, quality::RandomState>,
    free_words: Vec<u32>,
    next_word: u32,
}

#[derive(Clone, Copy, Debug)]
struct Word {
    id: u32,
    /// Edges that carry it.
    uses: u32,
}

#[derive(Debug)]
struct Node<V: Copy + Eq + Hash> {
    values: DenseSet<V>,
    /// Children, wildcard children included.
    children: u32,
    one: u32,
    many: u32,
}

/// Buffers that matching reuses. Empty between uses.
#[derive(Debug, Default)]
pub struct MatchScratch {
    words: Vec<u32>,
    /// `many` nodes below another `many` node that were expanded already.
    expanded: HashSet<u32, fast::RandomState>,
}

impl<V: Copy + Eq + Hash> Default for Trie<V> {
    fn default() -> Self {
        Self::new(Wildcards::AMQP)
    }
}

impl<V: Copy + Eq + Hash> Trie<V> {
    /// An empty trie.
    pub fn new(wildcards: Wildcards) -> Self {
        Self {
            wildcards,
            nodes: vec![Node::default()],
            free: Vec::new(),
            edges: HashMap::default(),
            words: HashMap::default(),
            free_words: Vec::new(),
            next_word: 0,
        }
    }

    /// Adds a pair; false when it was there already.
    pub fn insert(&mut self, filter: &str, value: V) -> bool {
        let mut node = ROOT;
        for word in self.wildcards.words(filter) {
            node = self.child_or_new(node, word);
        }
        self.nodes[node as usize].values.insert(value)
    }

    /// Removes a pair; false when it was not there. Nodes that nothing needs any more are given back.
    pub fn remove(&mut self, filter: &str, value: V) -> bool {
        let mut path: Vec<(u32, &str)> = Vec::new();
        let mut node = ROOT;
        for word in self.wildcards.words(filter) {
            path.push((node, word));
            node = self.child(node, word);
            if node == NONE {
                return false;
            }
        }
        if !self.nodes[node as usize].values.remove(value) {
            return false;
        }
        while let Some((parent, word)) = path.pop() {
            let Node { values, children, .. } = &self.nodes[node as usize];
            if *children > 0 || !values.is_empty() {
                break;
            }
            self.unlink(parent, word, node);
            node = parent;
        }
        true
    }

    /// Calls `found` with the values of every filter that matches `key`: with a slice per filter, so a value
    /// bound by several matching filters comes several times.
    pub fn matches(&self, key: &str, scratch: &mut MatchScratch, mut found: impl FnMut(&[V])) {
        scratch.words.clear();
        for word in self.wildcards.words(key) {
            scratch.words.push(self.words.get(word).map_or(UNKNOWN_WORD, |word| word.id));
        }
        let mut walk =
            Walk { trie: self, words: &scratch.words, expanded: &mut scratch.expanded, found: &mut found };
        walk.visit(ROOT, 0, false);
        scratch.expanded.clear();
    }

    /// Whether no filter is in it.
    pub fn is_empty(&self) -> bool {
        let root = &self.nodes[ROOT as usize];
        root.children == 0 && root.values.is_empty()
    }

    fn child(&self, node: u32, word: &str) -> u32 {
        if word == self.wildcards.one {
            self.nodes[node as usize].one
        } else if word == self.wildcards.many {
            self.nodes[node as usize].many
        } else {
            let Some(word) = self.words.get(word) else { return NONE };
            self.edges.get(&(node, word.id)).copied().unwrap_or(NONE)
        }
    }

    fn child_or_new(&mut self, node: u32, word: &str) -> u32 {
        let child = self.child(node, word);
        if child != NONE {
            return child;
        }
        let child = match self.free.pop() {
            Some(free) => free,
            None => {
                self.nodes.push(Node::default());
                (self.nodes.len() - 1) as u32
            }
        };
        self.nodes[node as usize].children += 1;
        if word == self.wildcards.one {
            self.nodes[node as usize].one = child;
        } else if word == self.wildcards.many {
            self.nodes[node as usize].many = child;
        } else {
            let word = self.use_word(word);
            self.edges.insert((node, word), child);
        }
        child
    }

    fn unlink(&mut self, parent: u32, word: &str, child: u32) {
        let node = &mut self.nodes[parent as usize];
        node.children -= 1;
        if word == self.wildcards.one {
            node.one = NONE;
        } else if word == self.wildcards.many {
            node.many = NONE;
        } else if let Some(id) = self.release_word(word) {
            self.edges.remove(&(parent, id));
        }
        self.free.push(child);
    }

    fn use_word(&mut self, word: &str) -> u32 {
        if let Some(known) = self.words.get_mut(word) {
            known.uses += 1;
            return known.id;
        }
        let id = self.free_words.pop().unwrap_or_else(|| {
            self.next_word += 1;
            self.next_word - 1
        });
        self.words.insert(word.into(), Word { id, uses: 1 });
        id
    }

    fn release_word(&mut self, word: &str) -> Option<u32> {
        let known = self.words.get_mut(word)?;
        known.uses -= 1;
        let id = known.id;
        if known.uses == 0 {
            self.words.remove(word);
            self.free_words.push(id);
        }
        Some(id)
    }
}

impl<V: Copy + Eq + Hash> Default for Node<V> {
    fn default() -> Self {
        Self { values: DenseSet::default(), children: 0, one: NONE, many: NONE }
    }
}

/// One match in progress.
struct Walk<'a, V: Copy + Eq + Hash, F: FnMut(&[V])> {
    trie: &'a Trie<V>,
    words: &'a [u32],
    expanded: &'a mut HashSet<u32, fast::RandomState>,
    found: &'a mut F,
}

impl<V: Copy + Eq + Hash, F: FnMut(&[V])> Walk<'_, V, F> {
    /// Goes on from `index` with `node` already matched; `below_many` when a `many` wildcard is above it.
    fn visit(&mut self, index: u32, at: usize, below_many: bool) {
        let node = &self.trie.nodes[index as usize];
        if node.many != NONE {
            self.expand(node.many, at, below_many);
        }
        let Some(&word) = self.words.get(at) else {
            if !node.values.is_empty() {
                (self.found)(node.values.as_slice());
            }
            return;
        };
        if node.one != NONE {
            self.visit(node.one, at + 1, below_many);
        }
        if word != UNKNOWN_WORD
            && let Some(&child) = self.trie.edges.get(&(index, word))
        {
            self.visit(child, at + 1, below_many);
        }
    }

    /// Lets the `many` wildcard at `index` stand for every run of words that starts at `from`.
    ///
    /// Runs are tried in ascending order, so the first arrival at a nested wildcard is the one with most words
    /// left and covers all later ones: they are skipped, which keeps the cost at nodes times words.
    fn expand(&mut self, index: u32, from: usize, below_many: bool) {
        if below_many && !self.expanded.insert(index) {
            return;
        }
        let has_children = self.trie.nodes[index as usize].children > 0;
        let first = if has_children { from } else { self.words.len() };
        for at in first..=self.words.len() {
            self.visit(index, at, true);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn matched(trie: &Trie<u32>, key: &str) -> Vec<u32> {
        let mut scratch = MatchScratch::default();
        let mut found = Vec::new();
        trie.matches(key, &mut scratch, |values| found.extend_from_slice(values));
        assert!(scratch.expanded.is_empty());
        found.sort_unstable();
        found
    }

    fn naive(filter: &[&str], key: &[&str]) -> bool {
        match (filter.split_first(), key.split_first()) {
            (None, None) => true,
            (Some((&"#", rest)), _) => naive(rest, key) || !key.is_empty() && naive(filter, &key[1..]),
            (Some((&word, rest)), Some((&first, key))) => (word == "*" || word == first) && naive(rest, key),
            _ => false,
        }
    }

    fn words(text: &str) -> Vec<&str> {
        Wildcards::AMQP.words(text).collect()
    }

    #[test]
    fn examples() {
        let filters = [
            "", "#", "*", "a", "a.b", "a.*", "a.#", "#.b", "*.*", "#.#", "a.#.b.#", ".", "*.#.*", "a.",
            "#.a.#",
        ];
        let mut trie = Trie::default();
        for (filter, value) in filters.into_iter().zip(0..) {
            assert!(trie.insert(filter, value));
            assert!(!trie.insert(filter, value));
        }
        for key in ["", "a", "b", "a.b", "a.x.b", "a.b.c.b.d", ".", "a.", "..", "*", "#", "a.#", "a.b.b.a"] {
            let expected: Vec<u32> = (0..filters.len() as u32)
                .filter(|&i| naive(&words(filters[i as usize]), &words(key)))
                .collect();
            assert_eq!(matched(&trie, key), expected, "key {key:?}");
        }
    }

    #[test]
    fn nested_wildcards_cost_no_power_of_the_words() {
        let mut trie = Trie::default();
        let filter = vec!["#.a"; 60].join(".");
        trie.insert(&filter, 1);
        let key = vec!["a"; 120].join(".");
        assert_eq!(matched(&trie, &key), [1]);
        assert_eq!(matched(&trie, &format!("{key}.b")), [0; 0]);
    }

    #[test]
    fn gives_back_nodes_and_words() {
        let mut trie = Trie::default();
        for round in 0..3 {
            for i in 0..100 {
                trie.insert(&format!("w{round}.{i}.*.#"), i);
            }
            for i in 0..100 {
                assert!(trie.remove(&format!("w{round}.{i}.*.#"), i));
            }
            assert!(trie.is_empty() && trie.edges.is_empty() && trie.words.is_empty());
        }
        assert_eq!(trie.nodes.len(), trie.free.len() + 1);
        assert!(trie.nodes.len() < 400 && trie.next_word < 200);
    }

    proptest! {
        #[test]
        fn agrees_with_the_naive_matcher(
            ops in prop::collection::vec((any::<bool>(), "([ab*#](\\.[ab*#]?){0,4})?", 0u32..3), 0..60),
            keys in prop::collection::vec("([abc](\\.[abc]?){0,5})?", 1..8),
        ) {
            let mut trie = Trie::default();
            let mut model: Vec<(String, u32)> = Vec::new();
            for (insert, filter, value) in ops {
                let pair = (filter.clone(), value);
                let known = model.contains(&pair);
                if insert {
                    prop_assert_eq!(trie.insert(&filter, value), !known);
                    if !known { model.push(pair) }
                } else {
                    prop_assert_eq!(trie.remove(&filter, value), known);
                    model.retain(|p| *p != pair);
                }
                prop_assert_eq!(trie.is_empty(), model.is_empty());
            }
            for key in keys {
                let mut expected: Vec<u32> = model.iter()
                    .filter(|(filter, _)| naive(&words(filter), &words(&key)))
                    .map(|&(_, value)| value)
                    .collect();
                expected.sort_unstable();
                prop_assert_eq!(matched(&trie, &key), expected, "key {:?}", key);
            }
        }
    }
}
