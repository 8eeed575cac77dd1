//! x
use posthouse_testkit::Broker;
#[test]
fn a() {
    let b = Broker::shared();
    b.peer().close();
}
