-- The counts that byte-pair encoding learns from: how much weight each pair of neighbouring parts has in a list of words, kept up to
-- date as pairs are merged. Sums run over the words in their order, so that the result depends neither on the hash nor on which
-- merges came before.
local Pairs = {}
Pairs.__index = Pairs

local counts = {}

-- Merges every a followed by b in a word's parts, in place.
function counts.merge(parts, a, b)
  local i = 1
  while i < #parts do
    if parts[i] == a and parts[i + 1] == b then
      parts[i] = a .. b
      table.remove(parts, i + 1)
    end
    i = i + 1
  end
end

local function key_of(parts, i) return parts[i] .. "\0" .. parts[i + 1] end

-- counts.new(list of { parts =, weight = }, banned: set of tokens that may not come about): sums (by pair, weight) and where (by pair,
-- the numbers of the words that have it).
function counts.new(words, banned)
  local self = setmetatable({ words = words, banned = banned, sums = {}, where = {} }, Pairs)
  for i in ipairs(words) do self:note(i) end
  for key in pairs(self.where) do self:add_up(key) end
  return self
end

function Pairs:note(i)
  local parts = self.words[i].parts
  for j = 1, #parts - 1 do
    local key = key_of(parts, j)
    if not self.banned[parts[j] .. parts[j + 1]] then
      self.where[key] = self.where[key] or {}
      self.where[key][i] = true
    end
  end
end

function Pairs:add_up(key)
  local indices, sum = {}, nil
  for i in pairs(self.where[key] or {}) do indices[#indices + 1] = i end
  table.sort(indices)
  for _, i in ipairs(indices) do
    local parts, weight = self.words[i].parts, self.words[i].weight
    for j = 1, #parts - 1 do
      if key_of(parts, j) == key then sum = (sum or 0) + weight end
    end
  end
  self.sums[key] = sum
end

-- The pair of the largest weight, the later one in byte order among equals; nil if there is none.
function Pairs:best()
  local best, most
  for key, sum in pairs(self.sums) do
    if not best or sum > most or sum == most and key > best then best, most = key, sum end
  end
  if best then return best:match "^([^\0]*)\0(.*)$" end
end

function Pairs:merge(a, b)
  local touched, indices = {}, {}
  for i in pairs(self.where[a .. "\0" .. b]) do indices[#indices + 1] = i end
  for _, i in ipairs(indices) do
    local parts = self.words[i].parts
    for j = 1, #parts - 1 do
      local key = key_of(parts, j)
      touched[key] = true
      if self.where[key] then self.where[key][i] = nil end
    end
    counts.merge(parts, a, b)
    for j = 1, #parts - 1 do touched[key_of(parts, j)] = true end
    self:note(i)
  end
  for key in pairs(touched) do self:add_up(key) end
end

return counts
