-- What functions written in Lua need to be as strict as those in C: named arguments with defaults, and errors with the
-- recipe's line. Techniques (scripts/patchbay/*.lua) and modules of users are made with them.
local pb, core = ...

-- pb.options(given, { "name without default", name = default }, function's name) -> a new table with every default filled in
function pb.options(given, known, name)
  if type(known) ~= "table" then core.raise("pb.options(given, known, name): known must be a table of names, got " .. core.describe(known)) end
  name = name or "this function"
  local names, values = {}, {}
  for key, value in pairs(known) do
    if math.type(key) == "integer" then
      names[#names + 1] = value
    else
      names[#names + 1], values[key] = key, value
    end
  end
  table.sort(names)
  if given == nil then return values end
  core.fields(given, names, 0, name)
  for key, value in pairs(given) do values[key] = value end
  return values
end

-- pb.fail(format, ...): an error that names the line of the recipe, not of the module that found it
function pb.fail(format, ...)
  if type(format) ~= "string" then core.raise("pb.fail(format, ...) takes a text, got " .. core.describe(format)) end
  core.raise(select("#", ...) > 0 and format:format(...) or format)
end

-- pb.one_of(value, { "a", "b" }, what): the value, or an error that lists the words and suggests the nearest
function pb.one_of(value, words, what)
  for _, word in ipairs(words) do
    if value == word then return value end
  end
  local near = type(value) == "string" and core.suggest(value, words)
  core.raise(("%s must be one of %s; got %s%s"):format(what, table.concat(words, ", "), core.describe(value),
             near and (" (did you mean '" .. near .. "'?)") or ""))
end
