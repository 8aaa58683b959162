-- The words and sentences that patchbay.tasks draws from. Templates of the indirect object task: [A] and [B] are the two names, [S] the
-- second mention of one of them, [P] a place, [O] an object.
local words = {}

local function split(text)
  local list = {}
  for word in text:gmatch "%S+" do list[#list + 1] = word end
  return list
end

words.names = split [[
Adam Alan Alex Alice Amy Andrew Anna Ben Bob Brian Carl Charles Claire Dan Daniel David Diana Ellen Emily Emma Eric Frank George Grace
Helen Henry Jack Jane Jason Jim Joe John Julia Karen Kate Kevin Laura Leo Linda Lisa Lucy Luke Maria Mark Martin Mary Max Michael Nancy
Oscar Paul Peter Rachel Robert Rose Ruth Ryan Sam Sarah Scott Simon Steven Susan Tim Tom Victor]]
words.places = split "lake office village hospital airport library hotel theatre bank station store market bar house farm park church club zoo beach garden museum school restaurant"
words.objects = split "coat ball kiss phone computer drink picture book flower gift card toy map coin bone camera box letter hat cup ring pen cake ticket lamp bag key"
words.spans = split "mission program voyage conflict contract campaign trial war plan project reign expedition strike marriage study journey siege festival treaty alliance"
words.nouns = {}
for word in ("key cabinet farmer car horse friend bird box plate road doctor bridge chair window book picture flower dog pilot manager door river house boy girl cat letter "
          .. "report cup guard tree teacher student author table garden"):gmatch "%S+" do
  words.nouns[#words.nouns + 1] = { word, word == "box" and "boxes" or word .. "s" }
end
words.verbs = { { " is", " are" }, { " was", " were" } }
words.prepositions = { "to", "near", "beside", "behind", "for", "with", "of", "from" }
words.ioi = {
  "When [A] and [B] went to the [P], [S] gave a [O] to",
  "Then, [A] and [B] went to the [P]. [S] gave a [O] to",
  "After [A] and [B] went to the [P], [S] gave a [O] to",
  "While [A] and [B] were working at the [P], [S] gave a [O] to",
  "After the lunch, [A] and [B] went to the [P]. [S] handed a [O] to",
  "The [P] was busy when [A] and [B] arrived, and [S] showed a [O] to",
  "Afterwards, [A] and [B] went to the [P]. [S] gave a [O] to",
  "Friends [A] and [B] found a [O] at the [P]. [S] gave it to",
  "When [A] and [B] got a [O] at the [P], [S] decided to give it to",
  "Once [A] and [B] were at the [P], [S] offered the [O] to",
  "Today [A] and [B] met at the [P], where [S] passed the [O] to",
}

-- Ids of tokens that are a whole word: a space and at least three letters. Of a model without tokenizer: every id.
local ids_of = setmetatable({}, { __mode = "k" }) -- found once for each model: a large vocabulary takes a while

local function find_tokens(model)
  local ids, before = {}, model.has_tokenizer and #model:decode { 0 } or 0
  for id = 0, model.vocab - 1 do
    if not model.has_tokenizer then
      ids[#ids + 1] = id
    else
      local ok, text = pcall(model.decode, model, { 0, id }) -- behind another token: some tokenizers drop a first space
      local piece = ok and text:sub(before + 1)
      if piece and piece:find "^ %a%a%a+$" then ids[#ids + 1] = id end
    end
  end
  return ids
end

function words.tokens(model)
  ids_of[model] = ids_of[model] or find_tokens(model)
  return table.move(ids_of[model], 1, #ids_of[model], 1, {})
end

-- What random words are drawn from: a list of ids, the tokens of a set's clean prompts (in the order of their ids), or every whole word.
function words.pool(model, given)
  if getmetatable(given) ~= "set" then return given or words.tokens(model) end
  local ids, seen = {}, {}
  for i = 1, #given do
    for _, id in ipairs(given[i].clean.tokens) do
      if not seen[id] then seen[id], ids[#ids + 1] = true, id end
    end
  end
  table.sort(ids)
  return ids
end

return words
