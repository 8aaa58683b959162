-- Byte-pair encoding: learning merges from counted words, and the files of a byte-level tokenizer as GPT-2 has it.
-- Merges can be forced, words banned, and the growing be done in rounds with other weights: a tokenizer for a corpus whose answers
-- must be single tokens is made so.
local pb = require "patchbay"
local pair_counts = require "patchbay.pair_counts"

local bpe = {}

-- ---- bytes and words --------------------------------------------------------------------------------------------------------

-- GPT-2's bytes -> printable characters: byte (0 to 255) -> text.
function bpe.byte_characters()
  local map, n = {}, 0
  for b = 0, 255 do
    local printable = b >= 33 and b <= 126 or b >= 161 and b <= 172 or b >= 174
    map[b] = utf8.char(printable and b or 256 + n)
    if not printable then n = n + 1 end
  end
  return map
end

local CHARACTERS = bpe.byte_characters()
bpe.SPACE = CHARACTERS[32]

local CONTRACTIONS = { "s", "t", "re", "ve", "m", "ll", "d" }

-- The words of a text as GPT-2 cuts it, in byte characters. ASCII only: other letters need Unicode's classes.
function bpe.words(text)
  if text:find "[\128-\255]" then pb.fail("bpe.words takes ASCII text, got '%s'", text:sub(1, 60)) end
  local list, at, n = {}, 1, #text
  while at <= n do
    local stop
    if text:sub(at, at) == "'" then
      for _, tail in ipairs(CONTRACTIONS) do
        if not stop and text:sub(at + 1, at + #tail) == tail then stop = at + #tail end
      end
    end
    stop = stop or select(2, text:find("^ ?%a+", at)) or select(2, text:find("^ ?%d+", at)) or select(2, text:find("^ ?[^%s%a%d]+", at))
    if not stop then -- white space: all of it at the end of the text, else all but the last of it
      stop = select(2, text:find("^%s+", at))
      if stop < n and stop > at then stop = stop - 1 end
    end
    list[#list + 1] = text:sub(at, stop):gsub("[^!-~]", function(c) return CHARACTERS[c:byte()] end)
    at = stop + 1
  end
  return list
end

-- ---- learning ------------------------------------------------------------------------------------------------------------------

local Learner = {}
Learner.__index = Learner

-- bpe.learner([{ banned = { [token] = true } }]): vocab (the byte characters to begin with) and merges grow.
function bpe.learner(given)
  local o = pb.options(given, { banned = {} }, "bpe.learner")
  local self = setmetatable({ vocab = {}, merges = {}, have = {}, banned = o.banned }, Learner)
  for b = 0, 255 do self.vocab[b + 1] = CHARACTERS[b] end
  table.sort(self.vocab, function(a, b) return utf8.codepoint(a) < utf8.codepoint(b) end)
  for _, character in ipairs(self.vocab) do self.have[character] = true end
  return self
end

-- A merge that is wanted whatever the counts say.
function Learner:merge(a, b)
  self.merges[#self.merges + 1] = { a, b }
  if not self.have[a .. b] then
    self.have[a .. b] = true
    self.vocab[#self.vocab + 1] = a .. b
  end
end

local function split(word)
  local parts = {}
  for _, code in utf8.codes(word) do parts[#parts + 1] = utf8.char(code) end
  return parts
end

-- words: list of { text (byte characters), weight }. done(vocab, pieces): asked before each merge; pieces[text] is a word's parts.
function Learner:grow(list, done)
  local words, by_text = {}, {}
  for i, entry in ipairs(list) do
    words[i] = { parts = split(entry[1]), weight = entry[2] }
    by_text[entry[1]] = words[i].parts
  end
  for _, merge in ipairs(self.merges) do
    local joined = merge[1] .. merge[2]
    for i, word in ipairs(words) do
      if list[i][1]:find(joined, 1, true) then pair_counts.merge(word.parts, merge[1], merge[2]) end
    end
  end
  local found = pair_counts.new(words, self.banned)
  while not done(self.vocab, by_text) do
    local a, b = found:best()
    if not a then break end
    self:merge(a, b)
    found:merge(a, b)
  end
  return self
end

-- bpe.train(counts by word, size): the plain algorithm, until the vocabulary has so many tokens.
function bpe.train(counts, size)
  local learner, names, list = bpe.learner(), {}, {}
  for word in pairs(counts) do names[#names + 1] = word end
  table.sort(names)
  for i, word in ipairs(names) do list[i] = { word, counts[word] } end
  return learner:grow(list, function(vocab) return #vocab >= size end)
end

-- ---- files ------------------------------------------------------------------------------------------------------------------------

-- bpe.write(folder, vocab, merges [, { special = list of special tokens at the end of vocab, context = positions }]): tokenizer.json,
-- vocab.json, merges.txt and tokenizer_config.json in the output folder.
function bpe.write(folder, vocab, merges, given)
  local o = pb.options(given, { special = {}, context = 1024 }, "bpe.write")
  local ids, added, lines = {}, {}, { "#version: 0.2" }
  for i, token in ipairs(vocab) do ids[token] = i - 1 end
  for i, token in ipairs(o.special) do
    if not ids[token] then pb.fail("bpe.write: the special token '%s' is not in the vocabulary", token) end
    added[i] = { id = ids[token], content = token, single_word = false, lstrip = false, rstrip = false, normalized = false, special = true }
  end
  for i, merge in ipairs(merges) do lines[i + 1] = merge[1] .. " " .. merge[2] end
  local function byte_level(prefix, trim) return { type = "ByteLevel", add_prefix_space = prefix, trim_offsets = trim, use_regex = true } end
  pb.write(folder .. "/tokenizer.json", {
    version = "1.0", truncation = pb.null, padding = pb.null, added_tokens = added, normalizer = pb.null, pre_tokenizer = byte_level(false, true),
    post_processor = byte_level(true, false), decoder = byte_level(true, true),
    model = { type = "BPE", dropout = pb.null, unk_token = pb.null, continuing_subword_prefix = pb.null, end_of_word_suffix = pb.null, fuse_unk = false,
              byte_fallback = false, ignore_merges = false, vocab = ids, merges = merges } })
  pb.write(folder .. "/vocab.json", ids)
  pb.write(folder .. "/merges.txt", table.concat(lines, "\n") .. "\n")
  local config = { add_bos_token = false, add_prefix_space = false, model_max_length = o.context, tokenizer_class = "GPT2Tokenizer" }
  for _, role in ipairs { "bos_token", "eos_token", "unk_token" } do config[role] = o.special[1] end
  pb.write(folder .. "/tokenizer_config.json", config)
end

return bpe
