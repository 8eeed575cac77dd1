use super::*;
use crate::field::{FieldTable, FieldValue};
use crate::props::Properties;

/// The content header of a message with headers of every kind.
fn header() -> Vec<u8> {
    let headers = [
        ("tenant", FieldValue::string("acme")),
        ("quote", FieldValue::string("it's")),
        ("retries", FieldValue::I32(3)),
        ("big", FieldValue::I64(i64::MAX)),
        ("weight", FieldValue::F64(2.5)),
        ("urgent", FieldValue::Bool(true)),
        ("none", FieldValue::Void),
        ("list", FieldValue::Array(vec![])),
        ("sent", FieldValue::Timestamp(77)),
    ];
    let properties = Properties {
        headers: Some(FieldTable(headers.map(|(name, value)| (name.to_owned(), value)).to_vec())),
        priority: Some(7),
        message_id: Some("m1".to_owned()),
        ..Properties::default()
    };
    let mut header = Vec::new();
    properties.encode(0, &mut header);
    header
}

#[track_caller]
fn check(selected: bool, selector: &Selector, text: &str) {
    let header = header();
    assert_eq!(selector.matches(HeaderView::parse(&header).unwrap()), selected, "{text}");
}

#[track_caller]
fn sql(selected: bool, text: &str) {
    check(selected, &Selector::parse(text).unwrap(), text);
}

/// `true`, `false` or unknown, as neither it nor its opposite is true.
#[track_caller]
fn unknown(text: &str) {
    sql(false, text);
    sql(false, &format!("NOT ({text})"));
}

#[test]
fn comparisons() {
    for text in [
        "tenant = 'acme'",
        "tenant <> 'x'",
        "quote = 'it''s'",
        "retries = 3",
        "retries = 3.0",
        "retries=0x3",
        "retries < 3.5",
        "weight > 2",
        "weight >= 2.5",
        "weight <= 2.5e0",
        "tenant < 'b'",
        "urgent",
        "urgent = TRUE",
        "big = 9223372036854775807",
        "properties.priority = 7",
        "properties.message_id = 'm1'",
        "sent = 77",
        "true",
        "NOT false",
        "retries = 3L",
        "-retries = - 3",
        "tenant <> 3",
        "list <> 'x'",
    ] {
        sql(true, text);
    }
    for text in
        ["tenant = 'Acme'", "retries <> 3", "tenant = 3", "3 = '3'", "false", "list = 'x'", "urgent = 'true'"]
    {
        sql(false, text);
        sql(true, &format!("NOT ({text})"));
    }
}

#[test]
fn what_is_not_there_is_unknown() {
    for text in [
        "nosuch = 1",
        "none = 1",
        "nosuch <> 1",
        "nosuch",
        "tenant < 3",
        "urgent > 1",
        "nosuch + 1 = 1",
        "tenant * 2 = 2",
        "nosuch LIKE '%'",
        "retries LIKE '3'",
        "nosuch IN ('a')",
        "nosuch BETWEEN 1 AND 2",
        "retries BETWEEN nosuch AND 5",
        "-tenant = 1",
        "properties.app_id = 'x'",
        "tenant",
        "retries",
        "(nosuch = 1) AND true",
        "false OR nosuch = 1",
    ] {
        unknown(text);
    }
    sql(true, "nosuch IS NULL AND none IS NULL AND NOT tenant IS NULL AND list IS NOT NULL");
    sql(true, "nosuch = 1 OR urgent");
    sql(true, "NOT (nosuch = 1 AND false)");
    // Where it is below the least, what is unknown above does not matter.
    sql(true, "NOT retries BETWEEN 5 AND nosuch");
}

#[test]
fn tests_and_arithmetic() {
    for text in [
        "retries BETWEEN 3 AND 4",
        "retries NOT BETWEEN 4 AND 9",
        "tenant BETWEEN 'a' AND 'b'",
        "tenant IN ('x', 'acme')",
        "retries IN (1, 3, -5)",
        "tenant NOT IN ('x')",
        "tenant LIKE 'a%e'",
        "tenant NOT LIKE 'b%'",
        "quote LIKE 'it!''s' ESCAPE '!'".replace("!''", "''").as_str(),
        "retries + 2 * 3 = 9",
        "(retries + 2) * 3 = 15",
        "7 / 2 = 3.5",
        "10 - 3 - 2 = 5",
        "retries / 0 > 1000",
        "big * 2 > big",
        "retries > 2 AND retries < 4 OR nosuch = 1",
        "NOT retries = 4",
        "not tenant like 'b%' and (urgent or nosuch is null)",
    ] {
        sql(true, text);
    }
    sql(false, "0 / 0 = 0 / 0");
}

#[test]
fn precedence_is_sqls() {
    sql(true, "true OR true AND false");
    sql(false, "(true OR true) AND false");
    sql(true, "NOT false AND true");
    let chain = Selector::parse("a = 1 AND b = 2 AND c = 3").unwrap();
    assert!(matches!(&chain.0, Expression::And(all) if all.len() == 3), "{chain:?}");
}

#[test]
#[rustfmt::skip]
fn what_is_no_selector_is_refused() {
    for (text, complaint) in [
        ("", "expected a name, a literal or (, got the end at byte 0"),
        ("a = ", "expected a name, a literal or (, got the end at byte 4"),
        ("a = 1 b", "expected an operator or the end, got \"b\" at byte 6"),
        ("a NOT 5", "expected BETWEEN, IN or LIKE, got \"5\" at byte 6"),
        ("a IN ()", "expected a text or a number, got \")\" at byte 6"),
        ("a IN (b)", "expected a text or a number, got \"b\" at byte 6"),
        ("a LIKE 5", "expected a text in quotes, got \"5\" at byte 7"),
        ("a LIKE '!a' ESCAPE '!'", "expected %, _ or the escape character itself after an escape character, got \"!a\" at byte 7"),
        ("a LIKE 'x' ESCAPE 'ab'", "expected one escape character, got \"ab\" at byte 18"),
        ("a = 'x", "expected a quote at the end of a text, got the end at byte 6"),
        ("a = 1x", "expected a number, got \"1x\" at byte 4"),
        ("a = 0xg", "expected a number, got \"0xg\" at byte 4"),
        ("a = 1e999", "expected a number, got \"1e999\" at byte 4"),
        ("a ? 1", "expected a name, a literal or an operator, got '?' at byte 2"),
        ("(a = 1", "expected ), got the end at byte 6"),
        ("a IS 5", "expected NULL, got \"5\" at byte 5"),
        ("AND", "expected a name, a literal or (, got \"AND\" at byte 0"),
        ("properties.x = 1", "expected properties. with one of content_type, content_encoding, delivery_mode, priority, correlation_id, reply_to, expiration, message_id, timestamp, type, user_id, app_id, cluster_id, got properties.x at byte 0"),
    ] {
        assert_eq!(Selector::parse(text).unwrap_err().to_string(), complaint, "{text}");
    }
}

#[test]
fn size_is_bounded() {
    let deep = |open: &str, close: &str, n| format!("{}true{}", open.repeat(n), close.repeat(n));
    assert!(Selector::parse(&deep("(", ")", DEPTH_MAX)).is_ok());
    for text in [
        deep("(", ")", DEPTH_MAX + 1),
        deep("NOT ", "", DEPTH_MAX + 1),
        format!("{}1 = 1", "-".repeat(DEPTH_MAX + 1)),
        format!("1{} = 1", "+1".repeat(DEPTH_MAX + 1)),
    ] {
        let error = Selector::parse(&text).unwrap_err().to_string();
        assert!(error.starts_with("expected 64 levels at most, got more at byte "), "{error}");
    }
    // Many conditions are no depth.
    sql(true, "true AND ".repeat(800).trim_end_matches(" AND "));
    let long = format!("tenant = '{}'", "x".repeat(TEXT_MAX));
    assert_eq!(
        Selector::parse(&long).unwrap_err().to_string(),
        "expected 8192 bytes at most, got 8203 bytes at byte 8192"
    );
    let deep = format!("{}true{}", "{'not',".repeat(DEPTH_MAX + 1), "}".repeat(DEPTH_MAX + 1));
    assert!(Selector::parse_term(&deep).is_err());
    assert!(Selector::parse_term(&long).is_err());
}

#[test]
#[rustfmt::skip]
fn terms_say_the_same() {
    for (term, text) in [
        (r#"{'and',{'=',{'ident',<<"tenant">>},<<"acme">>},{'>',{'ident',<<"retries">>},2}}."#, "tenant = 'acme' AND retries > 2"),
        (r#"{ident, <<"urgent">>}."#, "urgent"),
        (r#"{'or',{'not',{'ident',<<"a">>}},{'or',true,false}}"#, "NOT a OR true OR false"),
        (r#"{'between',{'ident',<<"n">>},1,{'-',2.5}} ."#, "n BETWEEN 1 AND -2.5"),
        (r#"{'not_between',{'ident',<<"n">>},{'range',1,2}}"#, "n NOT BETWEEN 1 AND 2"),
        (r#"{'in',{'ident',<<"n">>},[<<"a">>,<<"b\"\\">>]}"#, r#"n IN ('a', 'b"\')"#),
        (r#"{'not_in',{'ident',<<"n">>},[]}"#, ""),
        (r#"{'like',{'ident',<<"n">>},<<"a!_%">>,<<"!">>}"#, "n LIKE 'a!_%' ESCAPE '!'"),
        (r#"{'not_like',{'ident',<<"n">>},<<"a%">>,'no_escape'}"#, "n NOT LIKE 'a%'"),
        (r#"{'is_null',{'ident',<<"n">>}}"#, "n IS NULL"),
        (r#"{'not_null',{'ident',<<"n">>}}"#, "n IS NOT NULL"),
        (r#"{'<=',{'+',1,{'*',2,3}},{'/',7,{'-',9,1}}}"#, "1 + 2 * 3 <= 7 / (9 - 1)"),
        (r#"{'<>',<<>>,<<"ü"/utf8>>}"#, "'' <> 'ü'"),
        ("{'>=',-3,1.0e2}", ""),
    ] {
        let read = Selector::parse_term(term).unwrap();
        if !text.is_empty() {
            assert_eq!(read, Selector::parse(text).unwrap(), "{term}");
        }
    }
    check(true, &Selector::parse_term(r#"{'ident',<<"urgent">>}."#).unwrap(), "urgent");
    check(true, &Selector::parse_term("{'<',-3,1.0e2}").unwrap(), "-3 < 100");
}

#[test]
#[rustfmt::skip]
fn what_is_no_term_is_refused() {
    for (term, complaint) in [
        ("", "expected an Erlang term, got the end at byte 0"),
        ("tenant = 'acme'", "expected a full stop or the end, got '=' at byte 7"),
        ("maybe", "expected a condition, got 'maybe' at byte 0"),
        ("[true]", "expected a condition, got a list at byte 0"),
        ("{'=',1}", "expected an operator with its operands, got '=' with 1 at byte 0"),
        ("{'xor',true,true}", "expected an operator with its operands, got 'xor' with 2 at byte 0"),
        ("{1,2}", "expected a tuple that begins with an atom, got another tuple at byte 0"),
        ("{}", "expected a tuple that begins with an atom, got another tuple at byte 0"),
        ("{'not',true", "expected , or }, got the end at byte 11"),
        ("{'ident',true}", "expected a binary, got another term at byte 9"),
        ("{'in',true,5}", "expected a list, got another term at byte 11"),
        ("{'in',true,[{'not',true}]}", "expected literals in a list, got another term at byte 11"),
        ("{'like',true,<<\"a\">>,<<\"ab\">>}", "expected 'no_escape' or one character, got another term at byte 21"),
        ("<<\"a", "expected a closing \", got the end at byte 4"),
        ("<<\"a\">", "expected >>, got '>' at byte 5"),
        ("'a", "expected a closing ', got the end at byte 2"),
        ("true. x", "expected the end, got 'x' at byte 6"),
        ("<<\"\\q\">>", "expected a known escape, got another after \\ at byte 3"),
        ("1x", "expected a number, got \"1x\" at byte 0"),
    ] {
        assert_eq!(Selector::parse_term(term).unwrap_err().to_string(), complaint, "{term}");
    }
}

proptest::proptest! {
    #[test]
    fn no_text_panics(text in ".{0,60}", words in "( |and|or|not|a|'x'|1|\\(|\\)|=|<|like|in|,|-|between|is null){0,20}", term in "(\\{|\\}|'and'|,|true|<<|\"a\"|>>|\\[|\\]|1|\\.|-){0,20}") {
        let header = header();
        let view = HeaderView::parse(&header).unwrap();
        for text in [&text, &words] {
            let _ = Selector::parse(text).map(|selector| selector.matches(view));
        }
        for text in [&text, &term] {
            let _ = Selector::parse_term(text).map(|selector| selector.matches(view));
        }
    }
}

#[test]
fn what_takes_too_long_is_not_selected() {
    let headers = (0..1_000).map(|number| (number.to_string(), FieldValue::Bool(true)));
    let text = ("text".to_owned(), FieldValue::string(&"a".repeat(60_000)));
    let headers = FieldTable(headers.chain([text]).collect());
    let mut header = Vec::new();
    Properties { headers: Some(headers), ..Properties::default() }.encode(0, &mut header);
    let header = HeaderView::parse(&header).unwrap();
    let selected = |text: &str| Selector::parse(text).unwrap().matches(header);
    let names = |count| "none = 1 OR ".repeat(count);
    assert!(selected(&format!("{} none IS NULL", names(400))));
    assert!(
        !selected(&format!("{} none IS NULL", names(600))),
        "a thousand headers are looked at six hundred times"
    );
    let like = |count| vec![format!("text LIKE '%{}b'", "a".repeat(5)); count].join(" OR ");
    assert!(selected(&format!("NOT ({})", like(1))));
    assert!(!selected(&format!("NOT ({})", like(10))), "what is not known is not the opposite of true");
    let list = vec!["'x'"; 1_500].join(",");
    assert!(selected(&format!("text NOT IN ({list})")));
    // Several share what they may take.
    let steps = Steps::new(2_500);
    let selector = Selector::parse("none IS NULL").unwrap();
    assert_eq!([(); 3].map(|()| selector.matches_within(header, &steps)), [true, true, false]);
    assert!(!steps.are_left());
}
