//! From the words of the command line to a request. rabbitmqctl takes options before and after the command, which the
//! argument parser of the other subcommands does not.

use serde_json::{Map, Value};

use super::commands::{self, Answer, Command, OptionKind, Rest};
use super::usage_of;

/// What is asked of which broker, and how the answer is shown.
#[derive(Debug)]
pub(crate) struct Request {
    /// The command.
    pub(crate) command: &'static Command,
    /// Its arguments by name.
    pub(crate) args: Map<String, Value>,
    /// The columns of a table.
    pub(crate) columns: Vec<String>,
    /// How the answer is shown.
    pub(crate) formatter: Formatter,
    /// Sentences are left out.
    pub(crate) quiet: bool,
    /// Tables start with the names of the columns.
    pub(crate) headers: bool,
    /// `--data-dir`
    pub(crate) data_dir: Option<String>,
    /// `--config`
    pub(crate) config: Option<String>,
    /// `--control-socket`
    pub(crate) control_socket: Option<String>,
}

impl Request {
    /// The virtual host it is about.
    pub(crate) fn vhost(&self) -> &str {
        self.args.get("vhost").and_then(Value::as_str).unwrap_or("/")
    }
}

/// How an answer is shown.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Formatter {
    /// Columns with tabs between them.
    Table,
    /// JSON on one line.
    Json,
}

#[derive(Default)]
struct Words {
    plain: Vec<String>,
    vhost: Option<String>,
    columns: Option<String>,
    formatter: Option<String>,
    quiet: bool,
    silent: bool,
    help: bool,
    data_dir: Option<String>,
    config: Option<String>,
    control_socket: Option<String>,
    flags: Vec<String>,
    /// Options of the command, with their values.
    options: Vec<(String, String)>,
}

/// Reads the words after `ctl`; none when they ask for help. The error is one line.
pub(crate) fn parse(words: Vec<String>) -> Result<Option<Request>, String> {
    let mut words = sort(words)?;
    let mut plain = std::mem::take(&mut words.plain).into_iter();
    let name = plain.next();
    if words.help || name.as_deref() == Some("help") {
        return Ok(None);
    }
    let name = name.ok_or("expected a command, \"posthouse ctl help\" lists them")?;
    let command = commands::find(&name).ok_or_else(|| {
        format!("command {name:?} is not supported yet, \"posthouse ctl help\" lists those that are")
    })?;
    let (args, named) = arguments(command, plain.collect(), &words)?;
    let columns = columns(command, named, words.columns.as_deref())?;
    let formatter = match words.formatter.as_deref() {
        None | Some("table" | "pretty_table") => Formatter::Table,
        Some("json") => Formatter::Json,
        Some(other) => return Err(format!("--formatter: expected table or json, got {other:?}")),
    };
    Ok(Some(Request {
        command,
        args,
        columns,
        formatter,
        quiet: words.quiet || words.silent,
        headers: !words.silent,
        data_dir: words.data_dir,
        config: words.config,
        control_socket: words.control_socket,
    }))
}

fn sort(given: Vec<String>) -> Result<Words, String> {
    let mut words = Words::default();
    let mut given = given.into_iter();
    while let Some(word) = given.next() {
        if word == "--" {
            words.plain.extend(given);
            break;
        }
        // A lone dash is a name like any other.
        if !word.starts_with('-') || word == "-" {
            words.plain.push(word);
            continue;
        }
        let (flag, value) = match word.split_once('=') {
            Some((flag, value)) => (flag, Some(value.to_owned())),
            None => (word.as_str(), None),
        };
        let place = match flag {
            _ if commands::takes_value(flag) => {
                let value = value.or_else(|| given.next()).ok_or_else(|| missing_value(flag))?;
                words.options.push((flag.to_owned(), value));
                continue;
            }
            "-p" | "--vhost" => &mut words.vhost,
            "--columns" => &mut words.columns,
            "--formatter" => &mut words.formatter,
            "--data-dir" => &mut words.data_dir,
            "--config" => &mut words.config,
            "--control-socket" => &mut words.control_socket,
            _ => {
                match flag {
                    "-q" | "--quiet" => words.quiet = true,
                    "-s" | "--silent" | "--no-table-headers" => words.silent = true,
                    "-h" | "--help" => words.help = true,
                    _ => words.flags.push(flag.to_owned()),
                }
                if value.is_some() {
                    return Err(format!("expected {flag} without a value"));
                }
                continue;
            }
        };
        let value = value.or_else(|| given.next());
        *place = Some(value.ok_or_else(|| missing_value(flag))?);
    }
    Ok(words)
}

fn missing_value(flag: &str) -> String {
    format!("expected a value after {flag}, got nothing")
}

/// The arguments by name, and the columns named.
fn arguments(
    command: &'static Command,
    plain: Vec<String>,
    words: &Words,
) -> Result<(Map<String, Value>, Vec<String>), String> {
    let mut args = Map::new();
    let wanted = command.positional.len();
    let least = if command.last_is_optional() { wanted - 1 } else { wanted };
    let many = matches!(command.rest, Rest::List(_) | Rest::Columns);
    if plain.len() < least || (plain.len() > wanted && !many) {
        // Never the words themselves: one of them may be a password.
        return Err(format!("{}, got {} arguments", usage_of(command), plain.len()));
    }
    let mut plain = plain.into_iter();
    for (name, word) in command.positional.iter().zip(&mut plain) {
        args.insert((*name).to_owned(), Value::from(word));
    }
    let rest: Vec<String> = plain.collect();
    let mut named = Vec::new();
    match command.rest {
        Rest::List(name) => drop(args.insert(name.to_owned(), Value::from(rest))),
        Rest::Columns => named = rest,
        Rest::None | Rest::Password | Rest::File => {}
    }
    match &words.vhost {
        Some(vhost) if command.vhost => drop(args.insert("vhost".to_owned(), Value::from(vhost.clone()))),
        Some(_) => return Err(format!("{} takes no -p", command.name)),
        None => {}
    }
    options(command, words, &mut args)?;
    for flag in &words.flags {
        let own = command.flags.iter().find(|own| flag.strip_prefix("--") == Some(&own.replace('_', "-")));
        let own = own.ok_or_else(|| format!("{} has no option {flag}", command.name))?;
        args.insert((*own).to_owned(), Value::from(true));
    }
    Ok((args, named))
}

/// Takes over the options with values that were given, and the defaults of the others.
fn options(command: &Command, words: &Words, args: &mut Map<String, Value>) -> Result<(), String> {
    if let Some((flag, _)) =
        words.options.iter().find(|(flag, _)| command.options.iter().all(|own| own.flag() != *flag))
    {
        return Err(format!("{} has no option {flag}", command.name));
    }
    for own in command.options {
        let given = words.options.iter().rev().find(|(flag, _)| *flag == own.flag());
        let Some(text) = given.map(|(_, value)| value.as_str()).or(own.default) else { continue };
        let value = match own.kind {
            OptionKind::Text => Value::from(text),
            OptionKind::Number => {
                let bad = |_| format!("{}: expected a whole number, got {text:?}", own.flag());
                Value::from(text.parse::<i64>().map_err(bad)?)
            }
        };
        args.insert(own.name.to_owned(), value);
    }
    Ok(())
}

fn columns(command: &Command, named: Vec<String>, option: Option<&str>) -> Result<Vec<String>, String> {
    let Answer::Rows { shown, columns, .. } = command.answer else {
        return match option {
            Some(_) => Err(format!("{} has no columns", command.name)),
            None => Ok(Vec::new()),
        };
    };
    // rabbitmqctl takes names with commas between them in one word, too.
    let words = named.iter().map(String::as_str).chain(option);
    let chosen: Vec<String> =
        words.flat_map(|word| word.split(',')).filter(|name| !name.is_empty()).map(str::to_owned).collect();
    if let Some(unknown) = chosen.iter().find(|name| !columns.contains(&name.as_str())) {
        return Err(format!(
            "{}: no column {unknown:?}, expected some of {}",
            command.name,
            columns.join(", ")
        ));
    }
    Ok(if chosen.is_empty() { shown.iter().map(|&name| name.to_owned()).collect() } else { chosen })
}
