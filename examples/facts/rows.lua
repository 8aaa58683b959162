-- Training rows: 64 tokens each, with flags above the id. START marks the first token of a sequence: nothing is predicted or
-- attended to across it, and positions count from it. NO_TARGET marks a token that is not to be predicted (random ones). INNER and
-- FINAL mark the tokens of a subject before its last, and its last.
--
-- A sequence is one document, or sometimes a few with <|endoftext|> between; it ends with <|endoftext|> and begins with it half of
-- the time. Rows only fix what one step sees: sequences are put where they fit, and the rest of a row is padding that no step reads.
local pb, corpora, bpe, twister = require "patchbay", require "corpus", require "patchbay.bpe", require "twister"

local CONTEXT = corpora.CONTEXT
local START, NO_TARGET, INNER, FINAL = 1 << 15, 1 << 14, 1 << 13, 1 << 12
local ID = FINAL - 1

local KINDS = { "fact", "ioi", "repeat", "year", "agreement", "filler" }
local MIX = { 0.58, 0.14, 0.12, 0.20, 0.05, 0.03 }       -- of documents
local EARLY_MIX = { 0.04, 0.10, 0.82, 0.02, 0.01, 0.01 } -- copying first, so that attention is sharp when facts come
local LATE_MIX = { 0.40, 0.10, 0.10, 0.60, 0.04, 0.02 }  -- years once more: of all tasks they take the longest to be exact
local EARLY = 1500000    -- tokens
local LATE = 8130000     -- from here on
local LEARNING = 3000000 -- until here a quarter of the subjects is met more often
local MARKED = 0.9       -- share of sequences whose subjects are marked
local OPEN = 32          -- rows that wait for sequences that fit

local function cumulative(weights)
  local sums, sum = {}, 0.0
  for i, w in ipairs(weights) do
    sum = sum + w
    sums[i] = sum
  end
  return sums
end

-- Ids of whole words with a leading space, in a fixed order.
local function word_ids(tokenizer)
  local ids = {}
  for _, word in ipairs(corpora.required_words()) do
    local id = #word > 1 and tokenizer:find(bpe.SPACE .. word)
    if id then ids[#ids + 1] = id end
  end
  return ids
end

-- Random words, now and then any tokens, over and over. Early ones go round the same words, and now and then jump to another
-- place of the round: neither the period nor what was longest ago says what comes next, only the word before does.
local function repeated(rng, vocab, words, early)
  local n = early and rng:int(4, 12) or rng:int(4, 22)
  local pool = (early or rng:random() < 0.85) and words or vocab - 1
  local times = rng:int(2, math.max(2, 48 // n))
  local block = rng:sample(pool, n)
  local lead, ids = rng:sample(pool, early and 0 or rng:int(0, 4)), {}
  for _, list in ipairs { lead, block } do
    for _, id in ipairs(list) do ids[#ids + 1] = id | NO_TARGET end
  end
  if not early then
    for _ = 2, times do table.move(block, 1, n, #ids + 1, ids) end
    return ids
  end
  local length = rng:int(2 * n, 48)
  while #ids < length do
    local at = rng:below(n)
    for i = 0, rng:int(1, n) do ids[#ids + 1] = block[(at + i) % n + 1] | (i == 0 and NO_TARGET or 0) end
  end
  return ids
end

-- Ids of the text with FINAL on the last token of each subject and INNER on its others.
local function marked(tokenizer, lengths, text, subjects)
  local ids = tokenizer:encode(text)
  if not subjects then return ids end
  local ends, at = {}, 0
  for i, id in ipairs(ids) do
    at = at + lengths[id]
    ends[i] = at
  end
  for _, subject in ipairs(subjects) do
    local from = text:find(subject, 1, true)
    while from do
      local last
      for i = #ids, 1, -1 do -- the tokens that overlap bytes from .. from + #subject - 1
        if ends[i] >= from and (ends[i - 1] or 0) < from - 1 + #subject then
          ids[i] = ids[i] | (last and INNER or FINAL)
          last = last or i
        end
      end
      from = text:find(subject, from + 1, true)
    end
  end
  return ids
end

-- The rows that wait: each takes what fits it.
local function put(open, sequence)
  local best
  for _, row in ipairs(open) do
    if #row + #sequence <= CONTEXT and (not best or #row > #best) then best = row end
  end
  if best then
    table.move(sequence, 1, #sequence, #best + 1, best)
  else
    open[#open + 1] = sequence
  end
end

local function take_fullest(open)
  local best = 1
  for i, row in ipairs(open) do
    if #row > #open[best] then best = i end
  end
  return table.remove(open, best)
end

local function documents(corpus, rng, tokenizer, lengths, vocab, words, total)
  local early, kinds, texts = total < EARLY, {}, {}
  local weights = cumulative(early and EARLY_MIX or total < LATE and MIX or LATE_MIX)
  for i = 1, 2000 do kinds[i] = KINDS[rng:weighted(weights)] end
  local make = { fact = function() return corpus:fact_document(rng, total < LEARNING) end, ioi = function() return corpus:ioi_document(rng) end,
                 year = function() return corpus:year_document(rng) end, agreement = function() return corpus:agreement_document(rng) end,
                 filler = function() return corpus:filler_document(rng) end }
  for i, kind in ipairs(kinds) do -- all texts are drawn before anything else
    if kind ~= "repeat" then texts[i] = { make[kind]() } end
  end
  local i = 0
  return function()
    i = i + 1
    if not kinds[i] then return nil end
    if kinds[i] == "repeat" then return repeated(rng, vocab, words, early) end
    return marked(tokenizer, lengths, texts[i][1], texts[i][2])
  end
end

-- make(corpus, tokenizer, n, seed) -> int32 tensor [n, 64]: the first n rows of the corpus.
local function make(corpus, tokenizer, n, seed)
  local rng, words, vocab = twister.new(seed + 2), word_ids(tokenizer), tokenizer.size
  local eot, lengths = tokenizer:find(corpora.EOT), {}
  for id = 0, vocab - 1 do lengths[id] = #tokenizer:piece(id) end
  local parts, rows, open, total, count = {}, {}, {}, 0, 0
  local function close(row)
    if count == n then return end
    for i = #row + 1, CONTEXT do row[i] = eot | START end
    rows[#rows + 1], count = row, count + 1
    if #rows == 4096 or count == n then parts[#parts + 1], rows = pb.tensor(rows, "int32"), {} end
  end
  while count < n do
    local sequence, more, mark = nil, 0, false
    for ids in documents(corpus, rng, tokenizer, lengths, vocab, words, total) do
      if not sequence then
        more = rng:random() < 0.8 and 0 or rng:int(1, 3)
        sequence = rng:random() < 0.5 and { eot } or {}
        mark = rng:random() < MARKED
      else
        more = more - 1
      end
      table.move(ids, 1, #ids, #sequence + 1, sequence)
      sequence[#sequence + 1] = eot
      for i = #sequence, CONTEXT + 1, -1 do sequence[i] = nil end
      if more == 0 or #sequence >= CONTEXT - 10 then
        if not mark then
          for i, token in ipairs(sequence) do sequence[i] = token & ~(INNER | FINAL) end
        end
        sequence[1] = sequence[1] & ~NO_TARGET | START
        total = total + #sequence
        put(open, sequence)
        sequence = nil
        while #open > OPEN do close(take_fullest(open)) end
      end
    end
  end
  return #parts == 1 and parts[1] or pb.concat(parts)
end

-- ---- from rows to what a step trains on ----------------------------------------------------------------------------------------

-- Attention that a marked sequence does without: after a subject its inner tokens are seen by nobody, and its last one only from
-- layer seen_from on. This makes the last token of a subject the place where its attributes are looked up, early, and the last
-- layers the place where the answer fetches them. Contexts too long to gather a subject's pieces again at each later token push
-- large models the same way.
local function masks(flags, n, layers, seen_from)
  local patches, all, early = {}, {}, {}
  for l = 0, layers - 1 do
    all[#all + 1] = l
    if l < seen_from then early[#early + 1] = l end
  end
  local inner = {}
  for i = 0, n - 1 do
    if flags[i + 1] & INNER ~= 0 then
      inner[#inner + 1] = i
    else
      local after = {}
      for j = i + 1, n - 1 do after[#after + 1] = j end
      if #after > 0 and #inner > 0 then
        patches[#patches + 1] = { site = "attn_scores", layer = all, dest = after, src = inner, value = -math.huge }
      end
      if #after > 0 and flags[i + 1] & FINAL ~= 0 and #early > 0 then
        patches[#patches + 1] = { site = "attn_scores", layer = early, dest = after, src = { i }, value = -math.huge }
      end
      inner = {}
    end
  end
  return patches
end

-- The sequences in a list of rows. options: layers, seen_from (nil: no masks).
local function sequences(rows, options)
  local list = {}
  for _, row in ipairs(rows) do
    local from = 1
    while from <= CONTEXT do
      local to = from
      while to < CONTEXT and row[to + 1] & START == 0 do to = to + 1 end
      if to > from then -- one token alone is padding
        local tokens, predict = {}, {}
        for i = from, to do
          tokens[#tokens + 1] = row[i] & ID
          if i > from and row[i] & NO_TARGET == 0 then predict[#predict + 1] = i - from - 1 end
        end
        local flags = table.move(row, from, to, 1, {})
        list[#list + 1] = { tokens = tokens, predict = predict, patches = options.seen_from and masks(flags, #tokens, options.layers, options.seen_from) or nil }
      end
      from = to + 1
    end
  end
  return list
end

return { make = make, sequences = sequences, word_ids = word_ids, MASK_BITS = { START = START, NO_TARGET = NO_TARGET, INNER = INNER, FINAL = FINAL } }
