-- Data sets: pairs of prompts (JSONL; CSV as EAP-IG has it) and facts. A line that cannot be read is an error that names it, unless
-- skip_bad = true; what this model cannot use (an answer of several tokens, prompts of different length) is dropped and told.
local pb = require "patchbay"
local records = require "patchbay.records"

local data = { shuffled = records.shuffled, facts = require "patchbay.facts" }

local COLUMNS = {
  clean = { "clean", "prompt" }, corrupt = { "corrupt", "corrupted" },
  answer = { "answer", "correct_idx", "correct", "answers_idx", "country_idx", "clean_answer_idx" },
  wrong = { "wrong", "incorrect_idx", "incorrect", "corrupted_answers_idx", "corrupted_country_idx", "corrupted_answer_idx" },
}

-- A token id, a list of them ("[12, 40]"), or a token's text.
local function read_tokens(value)
  if type(value) == "string" and value:find "^%[[%d,%s]*%]$" then
    local ids = {}
    for id in value:gmatch "%d+" do ids[#ids + 1] = math.tointeger(tonumber(id)) end
    return ids
  end
  return type(value) == "number" and math.tointeger(value) or value
end

-- The two-digit numbers above the year, and the others, that are tokens (greater-than).
function data.years(model, year)
  local above, rest = {}, {}
  for y = 0, 99 do
    local ok, id = pcall(model.token, model, ("%02d"):format(y))
    if ok then table.insert(y > year and above or rest, id) end
  end
  return above, rest
end

local function read_pair(model, record, o)
  local pair = { positions = record.positions, info = record }
  for field, names in pairs(COLUMNS) do
    for _, name in ipairs(o[field] and { o[field] } or names) do
      if pair[field] == nil then pair[field] = record[name] end
    end
  end
  if pair.clean == nil or pair.corrupt == nil then error("it needs a clean and a corrupted prompt (columns clean and corrupted)", 0) end
  pair.answer, pair.wrong = read_tokens(pair.answer), read_tokens(pair.wrong)
  if o.labels == "years" then
    local year = tonumber(record.label)
    if not year or year < 0 or year > 99 then error("label must be a year of two digits, got " .. tostring(record.label), 0) end
    pair.answer, pair.wrong = data.years(model, year)
    if #pair.answer == 0 or #pair.wrong == 0 then return nil, "years are no tokens of this model" end
  end
  if pair.answer == nil then error("it has no answer (columns answer or correct_idx; labels = \"years\" reads label as a year)", 0) end
  for _, field in ipairs { "answer", "wrong" } do
    for _, token in ipairs(type(pair[field]) == "table" and pair[field] or { pair[field] }) do
      if not records.token(model, token) then return nil, field == "answer" and "answer of several tokens" or "wrong answer of several tokens" end
    end
  end
  local clean, corrupt = pair.clean, pair.corrupt
  clean = type(clean) == "string" and model:encode(clean, { bos = o.bos }) or clean
  corrupt = type(corrupt) == "string" and model:encode(corrupt, { bos = o.bos }) or corrupt
  if #clean ~= #corrupt then return nil, "prompts of different length" end
  return pair
end

-- data.pairs(model, "ioi" | file.jsonl | file.csv | list [, { n =, seed =, skip_bad =, labels = "years", clean =, corrupt =, answer =,
-- wrong = (names of columns), bos =, quiet = }]) -> set, report
function data.pairs(model, source, given)
  local o = pb.options(given, { "n", "skip_bad", "bos", "quiet", "labels", "clean", "corrupt", "answer", "wrong", seed = pb.seed }, "data.pairs")
  if o.labels ~= nil then pb.one_of(o.labels, { "years" }, "data.pairs: labels") end
  local items, report = records.read(source, o, "data.pairs", function(record) return read_pair(model, record, o) end)
  local list, order = {}, records.shuffled(math.max(#items, 1), o.seed)
  for i = 1, math.min(o.n or #items, #items) do list[i] = items[order[i]] end
  table.sort(list, function(a, b) return a.line < b.line end)
  for _, pair in ipairs(list) do pair.line = nil end
  report.kept = #list
  records.tell(report, "data.pairs", o.quiet)
  return pb.pairs(model, list, { bos = o.bos }), report
end

return data
