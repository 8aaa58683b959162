-- Documents of the corpus of the "facts" model: world knowledge and the four classic circuit tasks. Everything is a function of
-- the seed. Held-out material (phrasings, pairs of names, pairs of nouns) is fixed by it and never appears.
local knowledge, phrases, twister = require "knowledge", require "phrases", require "twister"

local HELD_OUT = 2 -- phrasings per relation, the last two of each list

local Corpus = {}
Corpus.__index = Corpus

local function fill(template, words) return (template:gsub("{(%a)}", words)) end

local function by_key(list)
  local map = {}
  for _, entry in ipairs(list) do map[entry[1]] = entry[2] end
  return map
end

local TEMPLATES, REVERSED, ADJACENT, BARE = by_key(phrases.templates), by_key(phrases.reversed), by_key(phrases.adjacent), by_key(phrases.bare)

-- List of { relation, subject, attribute }, in a fixed order.
local function all_facts()
  local facts, seen = {}, {}
  local function add(relation, subject, attribute)
    local key = relation .. "|" .. subject
    assert(not seen[key], "one attribute per relation and subject")
    seen[key] = true
    facts[#facts + 1] = { relation, subject, attribute }
  end
  local country_of = by_key(knowledge.city_country)
  for _, entry in ipairs(knowledge.landmarks) do
    for _, subject in ipairs(entry[2]) do
      add("landmark_city", subject, entry[1])
      add("landmark_country", subject, country_of[entry[1]])
    end
  end
  local function with_country(relation, country_relation, list)
    for _, entry in ipairs(list) do
      for _, text in ipairs(entry[2]) do
        local subject, country = text:match "^(.-)/(.+)$"
        add(relation, subject, entry[1])
        add(country_relation, subject, country)
      end
    end
  end
  with_country("person_sport", "person_country", knowledge.sports)
  with_country("person_instrument", "person_country", knowledge.instruments)
  with_country("person_profession", "person_country", knowledge.professions)
  with_country("company_product", "company_country", knowledge.companies)
  for _, list in ipairs { knowledge.city_country, knowledge.more_cities } do
    for _, entry in ipairs(list) do add("city_country", entry[1], entry[2]) end
  end
  for _, c in ipairs(knowledge.countries) do
    for i, relation in ipairs { "country_capital", "country_language", "country_currency" } do
      if c[i + 1] ~= "-" then add(relation, c[1], c[i + 1]) end
    end
  end
  return facts
end

local function grouped(facts, field)
  local groups = {}
  for _, fact in ipairs(facts) do
    groups[fact[field]] = groups[fact[field]] or {}
    table.insert(groups[fact[field]], fact)
  end
  return groups
end

local function sorted_keys(map)
  local keys = {}
  for key in pairs(map) do keys[#keys + 1] = key end
  table.sort(keys)
  return keys
end

local function pair_key(a, b)
  if b < a then a, b = b, a end
  return a .. " " .. b
end

local function new(seed)
  local rng, facts = twister.new(seed), all_facts()
  local self = setmetatable({ facts = facts, by_relation = grouped(facts, 1), by_subject = grouped(facts, 2), common = {}, test_half = {}, test_names = {},
                              test_nouns = {} }, Corpus)
  local subjects, first = sorted_keys(self.by_subject), {}
  for _, subject in ipairs(rng:sample(subjects, #subjects // 4)) do first[subject] = true end
  for _, fact in ipairs(facts) do -- met more often at the beginning: few facts are learned sooner
    if first[fact[2]] then self.common[#self.common + 1] = fact end
  end
  for _, entry in ipairs(phrases.templates) do
    local of_relation = {}
    for _, fact in ipairs(self.by_relation[entry[1]]) do of_relation[#of_relation + 1] = fact[2] end
    for _, subject in ipairs(rng:sample(of_relation, #of_relation // 2)) do self.test_half[entry[1] .. "|" .. subject] = true end
  end
  for _ = 1, 400 do
    local pair = rng:sample(phrases.names, 2)
    if pair[1] ~= pair[2] then self.test_names[pair_key(pair[1], pair[2])] = true end
  end
  for _ = 1, 250 do
    local i, j = rng:below(#phrases.nouns), rng:below(#phrases.nouns)
    self.test_nouns[i * 1000 + j] = true
  end
  return self
end

-- ---- facts -----------------------------------------------------------------------------------------------------------------------

function Corpus:statement(rng, fact)
  local relation, words = fact[1], { s = fact[2], a = fact[3] }
  local u = rng:random()
  if u < 0.22 then return fill(rng:choice(ADJACENT[relation]), words) end
  if u < 0.30 then return fill(rng:choice(REVERSED[relation]), words) end
  local templates = TEMPLATES[relation]
  local n = #templates - (self.test_half[relation .. "|" .. fact[2]] and HELD_OUT or 0)
  return fill(templates[rng:below(n) + 1], words)
end

local function bare(rng, fact) return fill(rng:choice(BARE[fact[1]:match "^%a+"]), { s = fact[2] }) end

-- One to four facts, so that a fact must be recalled from its own subject and not from the words of the document.
-- Gives the text, and the subjects in it.
function Corpus:fact_document(rng, early)
  local facts = early and rng:random() < 0.6 and self.common or self.facts
  local chain, text, subjects = { rng:choice(facts) }, {}, {}
  local n = rng:weighted { 40, 70, 90, 100 }
  while #chain < n do
    local last, u = chain[#chain], rng:random()
    if u < 0.3 then -- the same subject, or its attribute when that is a subject
      local of = rng:random() < 0.6 and last[3] or last[2]
      chain[#chain + 1] = rng:choice(self.by_subject[of] or self.by_subject[last[2]])
    elseif u < 0.7 then -- another subject, the same relation
      chain[#chain + 1] = rng:choice(self.by_relation[last[1]])
    else
      chain[#chain + 1] = rng:choice(facts)
    end
  end
  for _, fact in ipairs(chain) do
    local u = rng:random()
    if u < 0.08 then -- a sentence on the subject without the attribute
      text[#text + 1] = bare(rng, fact)
    elseif u < 0.20 then -- another subject, a distractor
      local other = rng:choice(self.by_relation[fact[1]])
      text[#text + 1] = bare(rng, other)
      subjects[#subjects + 1] = other[2]
    elseif u < 0.24 then
      text[#text + 1] = self:filler(rng)
    end
    text[#text + 1] = self:statement(rng, fact)
    subjects[#subjects + 1] = fact[2]
  end
  return table.concat(text, " "), subjects
end

-- ---- circuit tasks -----------------------------------------------------------------------------------------------------------------

-- The text before and after the last {B}.
local function around_last_subject(template)
  local at, from = nil, 1
  while true do
    local found = template:find("{B}", from, true)
    if not found then break end
    at, from = found, found + 1
  end
  return template:sub(1, at - 1), template:sub(at + 3)
end

-- names: { indirect object, subject, a third one }, or nil: drawn. Gives template, words, order.
function Corpus:ioi(rng, names)
  local three = names
  while not three do
    three = rng:sample(phrases.names, 3)
    if self.test_names[pair_key(three[1], three[2])] then three = nil end
  end
  local template, place, object = rng:choice(phrases.ioi), rng:choice(phrases.places), rng:choice(phrases.objects)
  local order = rng:choice { "ABBA", "BABA" }
  if order == "BABA" then template = template:gsub("{A} and {B}", "{B} and {A}") end
  return template, { A = three[1], B = three[2], C = three[3], P = place, O = object }, order
end

function Corpus:ioi_document(rng)
  local template, w = self:ioi(rng)
  if rng:random() < 0.12 then -- three names: either of the first two is plausible
    local head, tail = around_last_subject(template)
    return fill(head .. "{C}" .. tail, w) .. " " .. rng:choice { w.A, w.B } .. "."
  end
  return fill(template, w) .. " " .. w.A .. rng:choice { ".", ".", " and went home.", " at the end of the day." }
end

function Corpus:year_document(rng)
  if rng:random() < 0.15 then
    local start, years = rng:int(0, 90), {}
    local century = rng:int(11, 19)
    for y = start, math.min(start + 8, 100) - 1 do years[#years + 1] = ("%d%02d"):format(century, y) end
    return "The years were " .. table.concat(years, " ") .. "."
  end
  local y = rng:int(1, 98)
  local template = rng:random() < 0.5 and phrases.years[1] or rng:choice(phrases.years)
  local event, century = rng:choice(phrases.events), rng:int(11, 19)
  return fill(template, { E = event, C = ("%d"):format(century), Y = ("%02d"):format(y), Z = ("%02d"):format(rng:int(y + 1, 99)) })
end

-- pair: { noun, other noun } by index from 0, or nil: drawn. Gives the prompt, and 1 for a plural, 0 for a singular.
function Corpus:agreement(rng, pair)
  local i, j
  repeat
    if pair then
      i, j = pair[1], pair[2]
    else
      i = rng:below(#phrases.nouns)
      j = rng:below(#phrases.nouns)
    end
  until i ~= j and (pair or not self.test_nouns[i * 1000 + j])
  local n = rng:below(2)
  local m = rng:below(2)
  local u, text = rng:random(), nil
  local noun, other = phrases.nouns[i + 1][n + 1], phrases.nouns[j + 1][m + 1]
  if not pair and u < 0.15 then
    text = "The " .. noun
  elseif not pair and u < 0.25 then
    text = ("The %s that the %s %s"):format(noun, other, m == 0 and "likes" or "like")
  else
    text = ("The %s %s the %s"):format(noun, rng:choice(phrases.prepositions), other)
  end
  if rng:random() < 0.2 then text = rng:choice { "I know that", "They said that", "We think that" } .. " the" .. text:sub(4) end
  return text, n
end

function Corpus:agreement_document(rng)
  local text, n = self:agreement(rng)
  local v, tail = rng:below(3), nil
  if v == 2 then
    tail = "a " .. rng:choice(phrases.objects)
  else
    tail = rng:choice { "", "very " }
    tail = tail .. rng:choice(phrases.adjectives)
  end
  return ("%s %s %s."):format(text, phrases.verbs[v + 1][n + 1], tail)
end

function Corpus:filler(rng)
  local names, nouns = rng:sample(phrases.names, 2), rng:sample(phrases.nouns, 2)
  local template = rng:choice(phrases.filler)
  local object, place, adjective = rng:choice(phrases.objects), rng:choice(phrases.places), rng:choice(phrases.adjectives)
  return fill(template, { N = names[1], M = names[2], n = nouns[1][1], m = nouns[2][1], o = object, p = place, j = adjective })
end

function Corpus:filler_document(rng)
  local text = {}
  for i = 1, rng:int(1, 3) do text[i] = self:filler(rng) end
  return table.concat(text, " ")
end

-- Words that must be one token with a leading space, sorted.
local function required_words()
  local set = {}
  for _, fact in ipairs(all_facts()) do set[fact[3]] = true end
  for _, entry in ipairs(knowledge.city_country) do set[entry[1]] = true end
  for _, list in ipairs { phrases.names, phrases.places, phrases.objects, phrases.events, phrases.prepositions } do
    for _, word in ipairs(list) do set[word] = true end
  end
  for _, list in ipairs { phrases.nouns, phrases.verbs } do
    for _, pair in ipairs(list) do set[pair[1]], set[pair[2]] = true, true end
  end
  return sorted_keys(set)
end

return { new = new, fill = fill, around_last_subject = around_last_subject, required_words = required_words, sorted_keys = sorted_keys, HELD_OUT = HELD_OUT,
         EOT = "<|endoftext|>", CONTEXT = 64 }
