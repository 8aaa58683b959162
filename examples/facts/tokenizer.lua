-- The tokenizer of the corpus: a BPE whose first merges make two-digit tokens, whose next follow how often words are met, and whose
-- last make the required words whole and spend the rest on the subjects.
local bpe, corpora, twister = require "patchbay.bpe", require "corpus", require "twister"

local VOCAB, SPARE, SUBJECT_WEIGHT = 2048, 560, 1.2

-- Words of a sample of documents in the order in which they are first met, and their counts.
local function count_words(corpus, rng, share)
  local counts, order = {}, {}
  local function count(make, n)
    for _ = 1, math.ceil(n * share) do
      for _, word in ipairs(bpe.words((make(corpus, rng)))) do
        if not counts[word] then order[#order + 1] = word end
        counts[word] = (counts[word] or 0) + 1
      end
    end
  end
  count(corpus.fact_document, 60000)
  count(corpus.ioi_document, 8000)
  count(corpus.year_document, 4000)
  count(corpus.agreement_document, 6000)
  count(corpus.filler_document, 6000)
  return counts, order
end

-- " 10" to " 19", " 20", and all pairs of digits: years are a century and a year.
local function add_digits(learner)
  local space = bpe.SPACE
  learner:merge(space, "1")
  for d = 0, 9 do learner:merge(space .. "1", ("%d"):format(d)) end
  learner:merge(space, "2")
  learner:merge(space .. "2", "0")
  for a = 0, 9 do
    for b = 0, 9 do learner:merge(("%d"):format(a), ("%d"):format(b)) end
  end
end

-- train(corpus, seed [, share of the sample of documents]) -> vocab, merges, how many merges made the required words whole
local function train(corpus, seed, share)
  local counts, order = count_words(corpus, twister.new(seed + 1), share or 1)
  local needed, need, subjects, banned = {}, {}, {}, {}
  for _, word in ipairs(corpora.required_words()) do
    needed[bpe.SPACE .. word] = true
    need[#need + 1] = bpe.SPACE .. word
  end
  table.sort(need)
  for _, fact in ipairs(corpus.facts) do
    for _, word in ipairs(bpe.words(" " .. fact[2])) do
      if not needed[word] then subjects[word] = true end
    end
    if not fact[2]:find " " and not needed[bpe.SPACE .. fact[2]] then -- subjects of one word stay in pieces
      banned[fact[2]], banned[bpe.SPACE .. fact[2]] = true, true
    end
  end
  local weight, list, at = {}, {}, {}
  local function set(word, value)
    if not at[word] then
      list[#list + 1] = { word }
      at[word] = #list
    end
    list[at[word]][2], weight[word] = value, value
  end
  for _, word in ipairs(order) do
    if not word:find "%d" then set(word, (subjects[word] and SUBJECT_WEIGHT or 1) * (1 + counts[word] ^ 0.3)) end
  end
  for _, word in ipairs(need) do set(word, 1 + (counts[word] or 0) ^ 0.3) end

  local learner = bpe.learner { banned = banned }
  add_digits(learner)
  learner:grow(list, function(vocab) return #vocab >= VOCAB - 1 - SPARE end)
  local first, part = #learner.vocab, {}
  for i, word in ipairs(need) do part[i] = { word, weight[word] } end
  learner:grow(part, function(_, pieces)
    for _, word in ipairs(need) do
      if #pieces[word] > 1 then return false end
    end
    return true
  end)
  local whole = #learner.vocab - first
  part = {}
  for i, word in ipairs(corpora.sorted_keys(subjects)) do part[i] = { word, weight[word] or SUBJECT_WEIGHT } end
  learner:grow(part, function(vocab) return #vocab >= VOCAB - 1 end)
  learner.vocab[#learner.vocab + 1] = corpora.EOT
  return learner.vocab, learner.merges, whole
end

return { train = train, VOCAB = VOCAB }
