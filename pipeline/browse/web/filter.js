// Filters as text: their conditions, joined by `and`, are added and taken away one by one. What stands in quotes or brackets stays whole.
const TOKEN = /'(?:[^']|'')*'|"[^"]*"|[()]|[^\s()'"]+|\s+/g;

// The conditions of a filter; one whole, in brackets, where an `or` joins them.
export function conditions(where) {
  const found = [""];
  let depth = 0, between = false, either = false;
  for (const token of where.trim().match(TOKEN) ?? []) {
    const word = depth ? "" : token.toLowerCase();
    depth += (token === "(") - (token === ")");
    if (word === "or") either = true;
    if (word === "and" && !between) { found.push(""); continue; }
    if (word === "between" || word === "and") between = word === "between";
    found[found.length - 1] += token;
  }
  return either ? [`(${where.trim()})`] : found.map((part) => part.trim()).filter(Boolean);
}

export const joined = (parts) => parts.join(" and ");

// The filter with these conditions, or without them where it has them all.
export function toggled(where, ...parts) {
  const known = conditions(where), rest = known.filter((part) => !parts.includes(part));
  return joined(has(where, ...parts) ? rest : [...rest, ...parts]);
}

export const has = (where, ...parts) => parts.every((part) => conditions(where).includes(part));

// The filter with a column held to a range, in the place of another range of it; without it where it is held to this one.
export function ranged(where, name, parts) {
  const rest = conditions(where).filter((part) => !part.startsWith(`${name} >= `) && !part.startsWith(`${name} < `));
  return joined(has(where, ...parts) ? rest : [...rest, ...parts]);
}
