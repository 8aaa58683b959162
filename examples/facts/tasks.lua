-- The facts and the tests as data: facts.json and tasks/*.jsonl. Every answer is one token, and a corrupt prompt has as many tokens
-- as its clean one.
local pb, corpora, phrases, twister, rows = require "patchbay", require "corpus", require "phrases", require "twister", require "rows"

local HELD_OUT, fill = corpora.HELD_OUT, corpora.fill

-- The text before {a}, with {} for the subject.
local function prompt_of(template) return (template:match("^(.-){a}"):gsub("%s+$", ""):gsub("{s}", "{}")) end

local function with_subject(prompt, subject) return (prompt:gsub("{}", subject)) end

local function relations_of()
  local reversed, relations = {}, {}
  for _, entry in ipairs(phrases.reversed) do reversed[entry[1]] = entry[2] end
  for _, entry in ipairs(phrases.templates) do
    local templates, first = {}, {}
    local function shown(t) return (t:gsub("{s}", "{}"):gsub("{a}", "[A]")) end
    for i, t in ipairs(entry[2]) do templates[i] = { text = shown(t), prompt = prompt_of(t), held_out = i > #entry[2] - HELD_OUT } end
    for i, t in ipairs(reversed[entry[1]]) do first[i] = shown(t) end
    relations[entry[1]] = { templates = templates, attribute_first = first }
  end
  return relations
end

-- A subject of the same relation with another attribute, so that the prompt is as long; if it can be, the subject as well.
local function partner(rng, facts, length, fact, prompt)
  local n, pool = length(with_subject(prompt, fact.subject)), {}
  for _, other in ipairs(facts) do
    if other.relation == fact.relation and other.attribute ~= fact.attribute then pool[#pool + 1] = other end
  end
  rng:shuffle(pool)
  for _, same_subject in ipairs { true, false } do
    for _, other in ipairs(pool) do
      if length(with_subject(prompt, other.subject)) == n and (not same_subject or other.subject_tokens == fact.subject_tokens) then return other end
    end
  end
end

local function fact_tasks(rng, facts, relations, length)
  local function known(fact, prompt, held_out)
    local other = partner(rng, facts, length, fact, prompt)
    local row = { known_id = fact.known_id, subject = fact.subject, attribute = fact.attribute, template = prompt, prediction = " " .. fact.attribute,
                  prompt = with_subject(prompt, fact.subject), relation = fact.relation, subject_tokens = fact.subject_tokens, held_out = held_out }
    if other then
      row.corrupt_subject, row.corrupt = other.subject, with_subject(prompt, other.subject)
      row.answer, row.wrong = " " .. fact.attribute, " " .. other.attribute
    end
    return row
  end
  local first, all, paraphrase = {}, {}, {}
  local function prompts(fact, from, to)
    local list = {}
    for i, t in ipairs(relations[fact.relation].templates) do
      if i >= from and i <= to(#relations[fact.relation].templates) then list[#list + 1] = t.prompt end
    end
    return list
  end
  for _, fact in ipairs(facts) do first[#first + 1] = known(fact, relations[fact.relation].templates[1].prompt, false) end
  for _, fact in ipairs(facts) do
    for _, prompt in ipairs(rng:sample(prompts(fact, 1, function(n) return n - HELD_OUT end), 2)) do all[#all + 1] = known(fact, prompt, false) end
  end
  for _, fact in ipairs(facts) do
    if fact.held_out_half then
      local n = #relations[fact.relation].templates
      for _, prompt in ipairs(prompts(fact, n - HELD_OUT + 1, function(m) return m end)) do paraphrase[#paraphrase + 1] = known(fact, prompt, true) end
    end
  end
  return first, all, paraphrase
end

local function ioi_task(rng, corpus)
  local list = {}
  for _, key in ipairs(corpora.sorted_keys(corpus.test_names)) do
    local pair = rng:shuffle { key:match "^(%S+) (%S+)$" }
    local a, b, others = pair[1], pair[2], {}
    for _, name in ipairs(phrases.names) do
      if name ~= a and name ~= b then others[#others + 1] = name end
    end
    local three = rng:sample(others, 3)
    local t, w, order = corpus:ioi(rng, { a, b, three[1] })
    local head, tail = corpora.around_last_subject(t)
    local strangers = { A = three[2], B = three[3], C = w.C, P = w.P, O = w.O }
    list[#list + 1] = {
      clean = fill(t, w), answer = " " .. a, wrong = " " .. b, order = order, place = w.P, object = w.O,
      corrupt = fill(head .. "{A}" .. tail, w),       -- the repeated name becomes the other one: the answer flips
      corrupt_abc = fill(head, strangers) .. three[1] .. fill(tail, w), -- three new names
      corrupt_s2 = fill(head .. "{C}" .. tail, w) }   -- the second subject is a third name
  end
  return list
end

local function induction_task(rng, tokenizer)
  local words, list = rows.word_ids(tokenizer), {}
  for i = 1, 300 do
    local n = rng:int(6, 20)
    local ids = rng:sample(words, n + 1)
    local other, k = table.remove(ids), rng:int(1, n - 1)
    local function twice(block)
      local all = table.move(block, 1, n, 1, {})
      return tokenizer:decode(table.move(ids, 1, k, n + 1, all))
    end
    local broken = table.move(ids, 1, n, 1, {})
    broken[k + 1] = other -- what follows the matched token is another word
    list[i] = { clean = twice(ids), corrupt = twice(broken), answer = tokenizer:decode { ids[k + 1] }, wrong = tokenizer:decode { other }, period = n }
  end
  return list
end

local function year_task(rng)
  local list = {}
  for y = 2, 98 do
    for _, event in ipairs(rng:sample(phrases.events, 4)) do
      local century = rng:int(11, 19)
      local function prompt(year) return ("The %s lasted from the year %d%02d to the year %d"):format(event, century, year, century) end
      list[#list + 1] = { clean = prompt(y), corrupt = prompt(1), label = ("%02d"):format(y), answer = ("%02d"):format(math.min(y + 1, 99)), wrong = ("%02d"):format(y) }
    end
  end
  return list
end

local function agreement_task(rng, corpus)
  local list, plural = {}, {}
  for _, noun in ipairs(phrases.nouns) do plural[noun[2]] = true end
  for _, key in ipairs(corpora.sorted_keys(corpus.test_nouns)) do
    local i, j = key // 1000, key % 1000
    if i ~= j then
      local text, n = corpus:agreement(rng, { i, j })
      local noun = phrases.nouns[i + 1]
      local v = phrases.verbs[rng:below(2) + 1]
      list[#list + 1] = { clean = text, corrupt = text:gsub(" " .. noun[n + 1] .. " ", " " .. noun[2 - n] .. " ", 1), answer = " " .. v[n + 1],
                          wrong = " " .. v[2 - n], number = n == 1 and "plural" or "singular",
                          attractor_differs = (plural[text:match "%S+$"] or false) ~= (n == 1) }
    end
  end
  return list
end

-- write(folder, corpus, tokenizer, seed)
local function write(folder, corpus, tokenizer, seed)
  local rng, lengths = twister.new(seed + 3), {}
  local function length(text)
    lengths[text] = lengths[text] or #tokenizer:encode(text)
    return lengths[text]
  end
  for _, word in ipairs(corpora.required_words()) do assert(length(" " .. word) == 1, word .. " is not one token") end
  for century = 10, 20 do
    for y = 0, 99 do assert(length((" %d%02d"):format(century, y)) == 2, "a year is a century and two digits") end
  end
  local relations, facts, tasks = relations_of(), {}, {}
  for i, fact in ipairs(corpus.facts) do
    facts[i] = { known_id = i - 1, relation = fact[1], subject = fact[2], attribute = fact[3], subject_tokens = length(" " .. fact[2]),
                 held_out_half = corpus.test_half[fact[1] .. "|" .. fact[2]] or false }
  end
  pb.write(folder .. "/facts.json", { about = "held_out templates were never seen in training with subjects of the held_out_half", relations = relations, facts = facts })
  tasks.facts, tasks.facts_all_templates, tasks.facts_paraphrase = fact_tasks(rng, facts, relations, length)
  tasks.ioi = ioi_task(rng, corpus)
  tasks.induction = induction_task(rng, tokenizer)
  tasks.greater_than = year_task(rng)
  tasks.subject_verb = agreement_task(rng, corpus)
  for name, list in pairs(tasks) do
    for _, row in ipairs(list) do
      if row.clean then assert(length(row.clean) == length(row.corrupt), row.clean) end
    end
    pb.write(("%s/tasks/%s.jsonl"):format(folder, name), list)
  end
  return tasks
end

return { write = write }
