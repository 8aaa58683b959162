-- pb.read and pb.write: files by their extension. Where a recipe may read and write: patchbay help pb.read, pb.write.
local pb, core = ...

local READABLE = ".safetensors, .pt, .bin, .npy, .csv, .json, .jsonl, .txt, .md"
local WRITABLE = ".safetensors, .npy, .csv, .json, .jsonl, .txt"

-- ---- CSV (RFC 4180): the first record names the columns -----------------------------------------------------------------

-- One record from position `at`: its fields, whether each was quoted, and where the next one begins (nil behind the last).
local function csv_record(text, at, name)
  local fields, quoted = {}, {}
  while true do
    local field, next_at
    if text:sub(at, at) == '"' then
      local parts, from = {}, at + 1
      while true do
        local close = text:find('"', from, true)
        if not close then core.raise(("'%s': a quoted field that begins at byte %d does not end"):format(name, at)) end
        parts[#parts + 1] = text:sub(from, close - 1)
        if text:sub(close + 1, close + 1) ~= '"' then
          next_at = close + 1
          break
        end
        parts[#parts + 1], from = '"', close + 2
      end
      field = table.concat(parts)
      quoted[#fields + 1] = true
    else
      next_at = text:find("[,\r\n]", at) or #text + 1
      field = text:sub(at, next_at - 1)
    end
    fields[#fields + 1] = field
    local separator = text:sub(next_at, next_at)
    if separator == "," then
      at = next_at + 1
    elseif separator == "" then
      return fields, quoted, nil
    else
      local after = text:match("^\r?\n()", next_at) or text:match("^\r()", next_at)
      if not after then core.raise(("'%s': text behind a closing quote at byte %d"):format(name, next_at)) end
      return fields, quoted, after <= #text and after or nil
    end
  end
end

local function csv_decode(text, name)
  if text == "" then core.raise(("'%s' is empty: the first line of a CSV file names its columns"):format(name)) end
  local columns, _, at = csv_record(text, 1, name)
  local rows, line = {}, 1
  while at do
    local fields, quoted
    fields, quoted, at = csv_record(text, at, name)
    line = line + 1
    if #fields ~= #columns then
      core.raise(("'%s': record %d has %d fields, the first one has %d"):format(name, line, #fields, #columns))
    end
    local row = {}
    for i, column in ipairs(columns) do
      row[column] = not quoted[i] and tonumber(fields[i]) or fields[i]
    end
    rows[#rows + 1] = row
  end
  return rows, columns
end

local function csv_field(value, name)
  local kind = type(value)
  if kind == "number" then
    return math.type(value) == "integer" and tostring(value) or ("%.9g"):format(value)
  elseif kind == "string" then
    -- quoted where a reader would take it for something else
    if value:find('[",\r\n]') or tonumber(value) then return '"' .. value:gsub('"', '""') .. '"' end
    return value
  elseif kind == "boolean" then
    return tostring(value)
  elseif value == nil then
    return ""
  end
  core.raise(("'%s': a CSV field is a number or a text, got %s"):format(name, core.describe(value)))
end

local function csv_encode(rows, columns, name)
  if not columns then
    if type(rows[1]) ~= "table" then
      core.raise(("'%s': the data of a CSV file is a tensor or a list of rows, each a table of columns"):format(name))
    end
    columns = core.sorted_keys(rows[1])
  end
  local known, lines, fields = {}, {}, {}
  for i, column in ipairs(columns) do
    known[column] = true
    fields[i] = csv_field(column, name)
  end
  lines[1] = table.concat(fields, ",")
  for number, row in ipairs(rows) do
    for key in pairs(row) do
      if not known[key] then core.raise(("'%s': row %d has a column '%s' that is not among the columns"):format(name, number, tostring(key))) end
    end
    for i, column in ipairs(columns) do fields[i] = csv_field(row[column], name) end
    lines[#lines + 1] = table.concat(fields, ",")
  end
  lines[#lines + 1] = ""
  return table.concat(lines, "\r\n")
end

-- ---- JSON lines --------------------------------------------------------------------------------------------------------------

local function jsonl_decode(text, name)
  local values, number = {}, 0
  for line in (text .. "\n"):gmatch("([^\n]*)\n") do
    number = number + 1
    if line:find "%S" then values[#values + 1] = core.json_decode(line, ("%s, line %d"):format(name, number)) end
  end
  return values
end

local function jsonl_encode(values, name)
  local lines = {}
  for i, value in ipairs(core.check_list(values, "the data of a .jsonl file")) do
    lines[i] = core.json_encode(value, name):gsub("\n *", " ")
  end
  lines[#lines + 1] = ""
  return table.concat(lines, "\n")
end

-- ---- one by one, broken ones included -------------------------------------------------------------------------------------

local function message_of(err) return (tostring(err):gsub("^[^\n:]-:%d+: ", "")) end

local record_readers = {}

function record_readers.jsonl(name)
  local records, number = {}, 0
  for line in (core.read_text(name) .. "\n"):gmatch("([^\n]*)\n") do
    number = number + 1
    if line:find "%S" then
      local ok, value = pcall(core.json_decode, line, ("%s, line %d"):format(name, number))
      records[#records + 1] = ok and { line = number, value = value } or { line = number, error = message_of(value) }
    end
  end
  return records
end

function record_readers.json(name)
  local records = {}
  for i, value in ipairs(core.check_list(core.json_decode(core.read_text(name), name), ("'%s'"):format(name))) do
    records[i] = { line = i, value = value }
  end
  return records
end

-- Lines are counted as editors do: a quoted field may hold several.
function record_readers.csv(name)
  local text = core.read_text(name)
  if text == "" then core.raise(("'%s' is empty: the first line of a CSV file names its columns"):format(name)) end
  local columns, _, at = csv_record(text, 1, name)
  local records, line, counted = {}, 1, 1
  while at do
    local _, newlines = text:sub(counted, at - 1):gsub("\n", "")
    line, counted = line + newlines, at
    local ok, fields, quoted, next_at = pcall(csv_record, text, at, name)
    local record = { line = line }
    if not ok then
      record.error, next_at = message_of(fields), nil
    elseif #fields ~= #columns then
      record.error = ("'%s', line %d: %d fields, the first line names %d"):format(name, line, #fields, #columns)
    else
      record.value = {}
      for i, column in ipairs(columns) do record.value[column] = not quoted[i] and tonumber(fields[i]) or fields[i] end
    end
    records[#records + 1], at = record, next_at
  end
  return records
end

-- ---- by extension --------------------------------------------------------------------------------------------------------------

local readers = {
  safetensors = core.read_safetensors,
  pt = core.read_torch,
  pth = core.read_torch,
  bin = core.read_torch,
  npy = core.read_npy,
  csv = function(name) return csv_decode(core.read_text(name), name) end,
  json = function(name) return core.json_decode(core.read_text(name), name) end,
  jsonl = function(name) return jsonl_decode(core.read_text(name), name) end,
  txt = core.read_text,
  md = core.read_text,
}

local writers = {
  safetensors = function(name, data, options) core.write_safetensors(name, data, options.metadata) end,
  npy = function(name, data) core.write_npy(name, data) end,
  csv = function(name, data, options)
    if type(data) == "userdata" then
      core.write_csv(name, data, options.axes, options.labels)
    else
      core.write_text(name, csv_encode(core.check_list(data, "the data of a .csv file"), options.columns, name))
    end
  end,
  json = function(name, data) core.write_text(name, core.json_encode(data, name) .. "\n") end,
  jsonl = function(name, data) core.write_text(name, jsonl_encode(data, name)) end,
  txt = function(name, data) core.write_text(name, data) end,
}

local options_of = { safetensors = { "metadata" }, csv = { "axes", "labels", "columns" } }

local function extension(name, known, verb, list)
  if type(name) ~= "string" then core.raise(("pb.%s: the file name must be text, got %s"):format(verb, core.describe(name))) end
  local ending = name:match "%.([%w]+)$"
  if not ending or not known[ending] then
    core.raise(("pb.%s goes by the file's ending, and does not know that of '%s': known are %s"):format(verb, name, list))
  end
  return ending
end

function pb.read(name)
  return readers[extension(name, readers, "read", READABLE)](name)
end

-- pb.records(name) -> list of { line =, value = } or { line =, error = }
function pb.records(name)
  return record_readers[extension(name, record_readers, "records", ".jsonl, .csv, .json (a list)")](name)
end

function pb.write(name, data, options)
  local ending = extension(name, writers, "write", WRITABLE)
  if data == nil then core.raise(("pb.write(\"%s\", data) needs data"):format(name)) end
  core.fields(options or {}, options_of[ending] or {}, 0, "pb.write")
  writers[ending](name, data, options or {})
end
