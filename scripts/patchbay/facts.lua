-- Facts: prompts about a subject whose next token is known, in ROME's format (known_1000). data.facts is this file's function.
local pb = require "patchbay"
local records = require "patchbay.records"

local Facts = {}
Facts.__index = Facts
Facts.__name = "facts"
function Facts:__tostring() return self.report.text end

local function facts_of(list, from)
  local facts = setmetatable({ model = from.model, report = from.report, subjects = from.subjects, all = from.all, bos = from.bos }, Facts)
  for i, fact in ipairs(list) do
    facts[i] = setmetatable({ of = facts }, { __index = fact }) -- a fact knows its set: noise is measured on the set's subjects
  end
  return facts
end

local function read_fact(model, record)
  local subject, prompt = record.subject, record.prompt
  if type(subject) ~= "string" or subject == "" then error("'subject' is missing", 0) end
  if type(record.template) == "string" and type(prompt) ~= "string" then prompt = record.template:gsub("{}", (subject:gsub("%%", "%%%%"))) end
  if type(prompt) ~= "string" then error("'prompt' is missing", 0) end
  local first, last = prompt:find(subject, 1, true)
  if not first then error(("the subject '%s' is not in the prompt '%s'"):format(subject, prompt), 0) end
  local answer = record.answer or record.attribute and " " .. record.attribute
  if type(answer) ~= "string" then error("'answer' (or 'attribute') is missing", 0) end
  local id, why = records.token(model, answer)
  if not id then return nil, why end
  return { prompt = prompt, subject = subject, answer = id, answer_text = answer, relation = record.relation or record.relation_id, record = record,
           shape = prompt:sub(1, first - 1) .. "{}" .. prompt:sub(last + 1) }
end

-- Run the facts numbered in `list` together; says for each whether the answer is the likeliest token.
local function run_facts(model, list, bos)
  local prompts, requests, known = {}, {}, {}
  for i, fact in ipairs(list) do prompts[i] = fact.prompt end
  local runs = model:runs(prompts, { bos = bos })
  for i, fact in ipairs(list) do
    fact.run, fact.positions = runs[i], runs[i]:find(fact.subject)
    requests[i] = { run = runs[i], metric = pb.metric.rank(fact.answer) }
  end
  for i, rank in ipairs(#list > 0 and pb.measure(requests):tolist() or {}) do known[i] = rank == 0 end
  return known
end

-- data.facts(model, "facts" | "known_1000.json" | list [, { n =, seed =, skip_bad =, unknown = "drop" | "keep", subject_tokens = { 2, 6 },
-- bos =, quiet = }]) -> facts: a list of { prompt, subject, answer, positions, run, ... } in the order of the file. n: so many,
-- drawn with the seed from those that can be used.
local function load(model, source, given)
  local o = pb.options(given, { "n", "skip_bad", "subject_tokens", "bos", "quiet", seed = pb.seed, unknown = "drop" }, "data.facts")
  pb.one_of(o.unknown, { "drop", "keep" }, "data.facts: unknown")
  local items, report = records.read(source, o, "data.facts", function(record) return read_fact(model, record) end)
  local subjects, chosen, order = {}, {}, records.shuffled(math.max(#items, 1), o.seed)
  for i, fact in ipairs(items) do
    subjects[i], fact.place = model:encode(fact.subject, { bos = false }), i
  end
  local n, at = o.n or #items, 0
  while at < #items and #chosen < n do -- in batches, no more than needed
    local batch = {}
    while at < #items and #batch < math.max(16, n - #chosen) do
      at = at + 1
      batch[#batch + 1] = items[order[at]]
    end
    for i, known in ipairs(run_facts(model, batch, o.bos)) do
      local fact, length = batch[i], #batch[i].positions
      fact.known = known
      local why = not known and o.unknown == "drop" and "not known by the model"
        or o.subject_tokens and (length < o.subject_tokens[1] or length > o.subject_tokens[2]) and "subject of another length"
      if why then
        report.dropped[#report.dropped + 1] = { line = fact.line, why = why }
      elseif #chosen < n then
        chosen[#chosen + 1] = fact
      end
    end
  end
  table.sort(chosen, function(a, b) return a.place < b.place end)
  report.kept = #chosen
  records.tell(report, "data.facts", o.quiet)
  return facts_of(chosen, { model = model, report = report, subjects = subjects, all = items, bos = o.bos })
end

-- facts:accuracy([model]) -> share of prompts whose answer is the likeliest token
function Facts:accuracy(model)
  local right, list = 0, {}
  for i, fact in ipairs(self) do list[i] = { prompt = fact.prompt, subject = fact.subject, answer = fact.answer } end
  for _, known in ipairs(run_facts(model or self.model, list, self.bos)) do right = right + (known and 1 or 0) end
  return right / #self
end

-- facts:split(0.5) -> the first half, the rest
function Facts:split(share)
  local n, first, rest = math.floor(#self * share + 0.5), {}, {}
  for i, fact in ipairs(self) do table.insert(i <= n and first or rest, fact) end
  if #first == 0 or #rest == 0 then pb.fail("%d facts split at %g leave an empty part", #self, share) end
  return facts_of(first, self), facts_of(rest, self)
end

-- Other facts in the same words whose subject has as many tokens and whose answer differs, in a seeded order.
local function partners(fact, all, seed)
  local list = {}
  for _, i in ipairs(records.shuffled(#all, seed, fact.place)) do
    local other = all[i]
    if other.shape == fact.shape and other.answer ~= fact.answer then list[#list + 1] = other end
  end
  return list
end

-- facts:pairs { seed =, quiet = } -> set: each prompt corrupted by a subject of the same token length with another answer, which the
-- model gives too. Facts without such a partner are dropped and told. Positions: subject, subject_last, after.
function Facts:pairs(given)
  local o = pb.options(given, { "quiet", seed = pb.seed }, "facts:pairs")
  local list, report, tries, waiting = {}, { read = #self, bad = {}, dropped = {}, source = "the facts" }, {}, {}
  for i, fact in ipairs(self) do tries[i], waiting[i] = { at = 0, list = partners(fact, self.all, o.seed) }, i end
  while #waiting > 0 do -- every fact tries its next partner, all of them in one pass
    local batch, of, again = {}, {}, {}
    for _, i in ipairs(waiting) do
      tries[i].at = tries[i].at + 1
      local other = tries[i].list[tries[i].at]
      if other then
        batch[#batch + 1], of[#of + 1] = { prompt = other.prompt, subject = other.subject, answer = other.answer, bos = self.bos }, i
      else
        report.dropped[#report.dropped + 1] = { line = self[i].line, why = "without a partner of the same length that the model knows" }
      end
    end
    for k, known in ipairs(run_facts(self.model, batch, self.bos)) do
      local fact, other = self[of[k]], batch[k]
      if known and #other.run == #fact.run and #other.positions == #fact.positions then
        local last = fact.positions[#fact.positions]
        list[#list + 1] = { place = of[k], clean = fact.run, corrupt = other.run, answer = fact.answer, wrong = other.answer, info = fact, name = fact.subject,
                            positions = { subject = fact.positions, subject_last = last, after = last + 1 < #fact.run and last + 1 or nil } }
      else
        again[#again + 1] = of[k]
      end
    end
    waiting = again
  end
  table.sort(list, function(a, b) return a.place < b.place end)
  for _, pair in ipairs(list) do pair.place = nil end
  report.kept = #list
  records.tell(report, "facts:pairs", o.quiet)
  return pb.pairs(self.model, list), report
end

return load
