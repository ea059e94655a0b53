// Filter expressions: `params < 1e5 and lr > 1e-3`, `family = mlp or not state = complete`.
// A parser of its own, as nothing that is typed may run: comparisons of a name with a number or a
// word, joined by and, or, not and brackets.

const TOKEN = /\s*(?:(<=|>=|!=|==|=|<|>|≤|≥|\(|\)|,)|"([^"]*)"|'([^']*)'|([^\s<>=!≤≥(),"']+))/y;

function tokens(text) {
  const found = [];
  TOKEN.lastIndex = 0;
  while (text.slice(TOKEN.lastIndex).trim()) {
    const at = TOKEN.lastIndex, match = TOKEN.exec(text);
    if (!match) throw new Error(`cannot be read from “${text.slice(at, at + 12)}” on`);
    const quoted = match[2] ?? match[3];
    found.push(quoted !== undefined ? { word: quoted, quoted: true } : match[1] ? { symbol: match[1] } : { word: match[4] });
  }
  return found;
}

// The value of a name in a candidate: its own fields, a metric, or a parameter, as `config.lr` or `lr`.
function named(candidate, name) {
  if (Object.hasOwn(candidate.metrics, name)) return candidate.metrics[name];
  if (Object.hasOwn(candidate.config, name)) return candidate.config[name];
  if (name.startsWith("config.")) return candidate.config[name.slice(7)];
  return FIELDS.includes(name) ? candidate[name] : undefined;
}
const FIELDS = ["number", "family", "state", "reason", "origin", "epochs", "seconds", "worker"];

const COMPARE = {
  "<": (a, b) => a < b, "<=": (a, b) => a <= b, ">": (a, b) => a > b, ">=": (a, b) => a >= b,
  "=": (a, b) => a === b, "!=": (a, b) => a !== b,
};

// A function of a candidate, or an Error that says what is wrong. `names` are those that exist.
function parseFilter(text, names) {
  const left = tokens(text);
  const next = () => left[0] ?? {};
  const keyword = (word) => !next().quoted && next().word?.toLowerCase() === word && left.shift();
  function either() {
    let first = both();
    while (keyword("or")) { const [a, b] = [first, both()]; first = (c) => a(c) || b(c); }
    return first;
  }
  function both() {
    let first = one();
    while (keyword("and")) { const [a, b] = [first, one()]; first = (c) => a(c) && b(c); }
    return first;
  }
  function one() {
    if (keyword("not")) { const a = one(); return (c) => !a(c); }
    if (next().symbol === "(") {
      left.shift();
      const within = either();
      if (left.shift()?.symbol !== ")") throw new Error("a bracket is not closed");
      return within;
    }
    return comparison();
  }
  function comparison() {
    const name = left.shift()?.word;
    if (name === undefined) throw new Error("a name is expected, such as params");
    if (!names.has(name)) throw new Error(`there is no “${name}”; there are ${[...names].slice(0, 8).join(", ")} …`);
    const symbol = left.shift()?.symbol, op = { "==": "=", "≤": "<=", "≥": ">=" }[symbol] ?? symbol;
    if (!COMPARE[op]) throw new Error(`after “${name}” one of < <= > >= = != is expected`);
    const word = left.shift()?.word;
    if (word === undefined) throw new Error(`a value is expected after “${name} ${symbol}”`);
    const number = Number(word), isNumber = word.trim() !== "" && Number.isFinite(number);
    if (!isNumber && op !== "=" && op !== "!=") throw new Error(`“${word}” is no number`);
    return (c) => {
      const value = named(c, name);
      if (value === undefined || value === null) return false; // unknown, and so inside no limit
      if (typeof value === "number" && isNumber) return COMPARE[op](value, number);
      return COMPARE[op](setting(value).toLowerCase(), word.toLowerCase());
    };
  }
  const found = either();
  if (left.length) throw new Error(`“${left[0].word ?? left[0].symbol}” is not expected here; join comparisons with and, or`);
  return found;
}

function filterNames(own) {
  const names = new Set([...FIELDS, ...own.facts.metrics]);
  for (const { config } of own.list.slice(0, 1000)) for (const name of Object.keys(config)) names.add(name).add(`config.${name}`);
  return names;
}
