-- Reading data sets line by line. A line that cannot be read is an error that names it, unless skip_bad = true. What can be read
-- but not used with a model is dropped with a reason, counted and told. patchbay.data and patchbay.facts are made of this.
local pb = require "patchbay"

local records = {}

-- A permutation of 1..n from the recipe's generator (Philox), the same on every machine.
function records.shuffled(n, seed, draw)
  local order = {}
  for i, index in ipairs(pb.rand { n, seed = seed, draw = draw or 0 }:argsort():tolist()) do order[i] = math.tointeger(index) + 1 end
  return order
end

-- "facts" -> the built-in model's tasks/facts.jsonl; anything with an ending is a file of the user's.
local function records_of(source, name)
  if type(source) == "table" then
    local list = {}
    for i, value in ipairs(source) do list[i] = { line = i, value = value } end
    return list, "the list"
  end
  if type(source) ~= "string" then pb.fail("%s: the data must be a file's name, a built-in one's (\"facts\"), or a list of records", name) end
  local path = source:find "%.%a+$" and source or pb.load("facts").folder .. "/tasks/" .. source .. ".jsonl"
  return pb.records(path), source
end

-- Calls read(record) for each record; it returns a value, or nil and why not, or raises. Bad lines stop unless they may be skipped.
function records.read(source, o, name, read)
  local records, label = records_of(source, name)
  local items, report = {}, { read = #records, bad = {}, dropped = {}, source = label }
  for _, record in ipairs(records) do
    local value, why, problem = nil, nil, record.error
    if not problem and type(record.value) ~= "table" then problem = "it is no record with named fields" end
    if not problem then
      local ok
      ok, value, why = pcall(read, record.value)
      if not ok then problem = tostring(value):gsub("^[^\n:]+:%d+: ", "") end
    end
    if problem then
      report.bad[#report.bad + 1] = { line = record.line, why = problem }
      if not o.skip_bad then pb.fail("%s: %s, line %d: %s\n(skip_bad = true goes on without such lines and counts them)", name, label, record.line, problem) end
    elseif value then
      value.line = record.line
      items[#items + 1] = value
    else
      report.dropped[#report.dropped + 1] = { line = record.line, why = why }
    end
  end
  return items, report
end

-- "100 used; dropped 14 not known by the model, 3 answer of several tokens; 1 line could not be read"
function records.tell(report, name, quiet)
  local counts, words = {}, {}
  for _, entry in ipairs(report.dropped) do
    if not counts[entry.why] then words[#words + 1] = entry.why end
    counts[entry.why] = (counts[entry.why] or 0) + 1
  end
  table.sort(words)
  for i, why in ipairs(words) do words[i] = ("%d %s"):format(counts[why], why) end
  report.text = ("%s: %d of %d in %s used%s%s"):format(name, report.kept, report.read, report.source,
    #words > 0 and "; dropped: " .. table.concat(words, ", ") or "", #report.bad > 0 and ("; %d could not be read"):format(#report.bad) or "")
  if report.kept == 0 then pb.fail("nothing is left: " .. report.text:gsub("%%", "%%%%")) end
  if not quiet then print(report.text) end
end

-- The id of an answer, or nil and why not.
function records.token(model, text)
  local ok, id = pcall(model.token, model, text)
  if ok then return id end
  return nil, "answer of several tokens"
end

return records
