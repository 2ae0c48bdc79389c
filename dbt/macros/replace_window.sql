{#
    incremental_strategy='replace_window': a run with --event-time-start A and --event-time-end B replaces the rows
    of [A, B) by what the model returns, by the model's `event_time`. No key is needed, and an empty result clears
    the window. On Trino every piece of the window is one MERGE, so one Iceberg commit: no reader sees a gap or a
    double. docs/atomic-writes.md says how to use it.
#}
{% macro get_incremental_replace_window_sql(arg_dict) -%}
    {%- set window = event_window() -%}
    {%- set event_time = (config.get('event_time') or '') | lower -%}
    {%- set columns = arg_dict['dest_columns'] -%}
    {%- set time_column = columns | selectattr('name', 'equalto', event_time) | first -%}
    {%- set problem = [] -%}
    {%- if not window -%}
        {%- do problem.append(
            'replaces a window of time and was given none: run dbt with --event-time-start and --event-time-end'
        ) -%}
    {%- elif not time_column -%}
        {%- do problem.append(
            "event_time is '" ~ event_time ~ "': replace_window needs the column of the rows' own time, one of "
            ~ columns | map(attribute='name') | join(', ')
        ) -%}
    {%- endif -%}
    {%- if problem -%}
        {%- do adapter.drop_relation(arg_dict['temp_relation']) -%}
        {%- do exceptions.raise_compiler_error(this ~ ': ' ~ problem[0]) -%}
    {%- endif -%}
    {{ return(adapter.dispatch('replace_window_sql')(
        arg_dict['target_relation'], arg_dict['temp_relation'], columns, time_column, window_of(time_column, window)
    )) }}
{%- endmacro %}

{#
    For the model's inputs: true in the window of this run, or everywhere in a run that builds the whole table.
    Rows outside the window that a model returns all the same fail it. `type` is the expression's: timestamp (UTC),
    timestamptz, or date, which is a day in LAKEHOUSE_TIMEZONE.
#}
{% macro in_window(column, type='timestamp') -%}
    {%- set window = event_window() -%}
    {%- if type not in ['timestamp', 'timestamptz', 'date'] -%}
        {%- do exceptions.raise_compiler_error(
            "in_window: type is '" ~ type ~ "', expected timestamp, timestamptz or date"
        ) -%}
    {%- endif -%}
    {%- if execute and window and should_full_refresh() and not rebuilds_history() -%}
        {%- do exceptions.raise_compiler_error(
            this ~ ": --full-refresh with a window would leave nothing but the window: leave one of the two out"
        ) -%}
    {%- elif window -%}
        {%- set column_type = {'dtype': 'timestamp with time zone' if type == 'timestamptz' else type, 'name': column} -%}
        {%- set window = window_of(column_type, window) -%}
        (
            {{ column }} >= {{ time_literal(window[0], column_type) }}
            and {{ column }} < {{ time_literal(window[1], column_type) }}
        )
    {%- else -%}
        true
    {%- endif -%}
{%- endmacro %}

{# [start, end) of this run in UTC, or none. dbt itself refuses one without the other and an end before the start. #}
{% macro event_window() -%}
    {#- Not `flags`: there it is empty while dbt renders a model. -#}
    {%- set start = invocation_args_dict.get('event_time_start') -%}
    {%- set end = invocation_args_dict.get('event_time_end') -%}
    {%- if start and end -%}
        {%- set parse = modules.datetime.datetime.fromisoformat -%}
        {{ return([parse(start | string), parse(end | string)]) }}
    {%- endif -%}
    {{ return(none) }}
{%- endmacro %}

{# The orchestrator says that the window of this --full-refresh is the model's whole history. #}
{% macro rebuilds_history() -%}
    {{ return(env_var('LAKEHOUSE_WHOLE_HISTORY', '') == 'true') }}
{%- endmacro %}

{# The zone of days, weeks and months. #}
{% macro lakehouse_timezone() -%}
    {{ return(env_var('LAKEHOUSE_TIMEZONE', '') or 'UTC') }}
{%- endmacro %}

{# The calendar day, in LAKEHOUSE_TIMEZONE, of a timestamp that is UTC without saying so. #}
{% macro local_date(column) -%}
    {{ return(adapter.dispatch('local_date')(column)) }}
{%- endmacro %}

{% macro duckdb__local_date(column) -%}
    cast(timezone('{{ lakehouse_timezone() }}', timezone('UTC', {{ column }})) as date)
{%- endmacro %}

{% macro trino__local_date(column) -%}
    cast(at_timezone(with_timezone({{ column }}, 'UTC'), '{{ lakehouse_timezone() }}') as date)
{%- endmacro %}

{# The window as the column keeps its times: dates are days of LAKEHOUSE_TIMEZONE, all else is UTC. #}
{% macro window_of(column, window) -%}
    {%- if column.dtype | lower == 'date' -%}
        {{ return([local_day(window[0], lakehouse_timezone()), local_day(window[1], lakehouse_timezone())]) }}
    {%- endif -%}
    {{ return(window) }}
{%- endmacro %}

{# A moment of UTC as the zone's own time; the first moment of a day is its midnight, even where clocks skip that. #}
{% macro local_day(moment, zone) -%}
    {%- set tz = modules.pytz.timezone(zone) -%}
    {%- set local = modules.pytz.utc.localize(moment).astimezone(tz).replace(tzinfo=none) -%}
    {%- set just_before = moment - modules.datetime.timedelta(microseconds=1) -%}
    {%- set before = modules.pytz.utc.localize(just_before).astimezone(tz).replace(tzinfo=none) -%}
    {%- if before.date() < local.date() -%}
        {{ return(local.replace(hour=0, minute=0, second=0, microsecond=0)) }}
    {%- endif -%}
    {{ return(local) }}
{%- endmacro %}

{#
    [start, end) cut into pieces of so many of the table's partitions: one more than 100 written at once fails in
    Trino, and a piece bounds the memory of its MERGE. Cuts lie on the borders of partitions.
#}
{% macro window_pieces(start, end, length, partition) -%}
    {%- set unit = 'hour' if partition == 'hour' else 'day' -%}
    {%- set step = modules.datetime.timedelta(**{unit ~ 's': length}) -%}
    {%- set border = partition_start(start, unit) -%}
    {%- set cuts = [start] -%}
    {%- for i in range(1, -((border - end) // step)) -%}
        {%- do cuts.append(border + step * i) -%}
    {%- endfor -%}
    {%- do cuts.append(end) -%}
    {%- set pieces = [] -%}
    {%- for i in range(cuts | length - 1) -%}
        {%- do pieces.append((cuts[i], cuts[i + 1])) -%}
    {%- endfor -%}
    {{ return(pieces) }}
{%- endmacro %}

{#
    One MERGE a piece. One marker row of the source matches every row that the piece has in the table, and deletes
    it; the equality makes that a hash join, without it the MERGE is quadratic. The first piece also reads what lies
    before the window or has no time, and the last what lies behind, to fail instead of losing them.
#}
{% macro trino__replace_window_sql(target, source, columns, time_column, window) -%}
    {%- set names = columns | map(attribute='quoted') | list -%}
    {%- set time = time_column.quoted -%}
    {%- for start, end in window_pieces(window[0], window[1], window_piece(), window_partition()) -%}
        {%- set after = time ~ ' >= ' ~ time_literal(start, time_column) -%}
        {%- set before = time ~ ' < ' ~ time_literal(end, time_column) -%}
merge into {{ target }} as stored
using (
    select
        {%- for column in columns %}
        {{ time_in_window(time_column, window, 'fail') if column.name == time_column.name else column.quoted }},
        {%- endfor %}
        cast(null as boolean) as dbt_replaces
    from {{ source }}
    where
        {{ 'true' if loop.first else after }}
        and {{ 'true' if loop.last else before if not loop.first else '(' ~ before ~ ' or ' ~ time ~ ' is null)' }}
    union all
    select {{ 'null, ' * (columns | length) }}true
) as built
on
    built.dbt_replaces = (stored.{{ time }} is not null)
    and stored.{{ after }}
    and stored.{{ before }}
when matched then delete
when not matched and built.dbt_replaces is null then
    insert ({{ names | join(', ') }})
    values (built.{{ names | join(', built.') }})
{{ ';' if not loop.last }}
    {% endfor %}
{%- endmacro %}

{# dbt-duckdb runs both statements in one transaction. #}
{% macro duckdb__replace_window_sql(target, source, columns, time_column, window) -%}
    {%- set names = columns | map(attribute='quoted') | join(', ') -%}
    delete from {{ target }}
    where
        {{ time_column.quoted }} >= {{ time_literal(window[0], time_column) }}
        and {{ time_column.quoted }} < {{ time_literal(window[1], time_column) }};
    insert into {{ target }} ({{ names }})
    select
        {%- for column in columns %}
        {{ time_in_window(time_column, window, 'error') if column.name == time_column.name else column.quoted }}
        {{- ',' if not loop.last }}
        {%- endfor %}
    from {{ source }}
{%- endmacro %}

{# The row's time; a row outside the window, or without a time, fails the statement. #}
{% macro time_in_window(time_column, window, fail) -%}
    {%- set time = time_column.quoted -%}
    {%- set whose = this ~ ': ' ~ time_column.name ~ ' of a row is ' -%}
    case
            when {{ time }} >= {{ time_literal(window[0], time_column) }}
                and {{ time }} < {{ time_literal(window[1], time_column) }} then {{ time }}
            else cast({{ fail }}(
                '{{ whose | replace("'", "''") }}' || coalesce(cast({{ time }} as varchar), 'null')
                || ', outside the window {{ window[0] }} to {{ window[1] }}: filter the inputs with in_window()'
            ) as {{ time_column.dtype }})
        end as {{ time }}
{%- endmacro %}

{% macro time_literal(moment, column) -%}
    {%- set type = column.dtype | lower -%}
    {%- if type == 'date' -%}
        {%- if moment != moment.replace(hour=0, minute=0, second=0, microsecond=0) -%}
            {%- do exceptions.raise_compiler_error(
                this ~ ": " ~ column.name ~ " is a date, so a window must start and end at midnight of "
                ~ lakehouse_timezone() ~ ", not at " ~ moment
            ) -%}
        {%- endif -%}
        date '{{ moment.date() }}'
    {%- elif not type.startswith('timestamp') -%}
        {%- do exceptions.raise_compiler_error(
            this ~ ": event_time " ~ column.name ~ " is " ~ type ~ ": expected a date or a timestamp"
        ) -%}
    {%- elif 'time zone' in type -%}
        {{ adapter.dispatch('zoned_literal')(moment) }}
    {%- else -%}
        timestamp '{{ moment }}'
    {%- endif -%}
{%- endmacro %}

{% macro trino__zoned_literal(moment) -%} timestamp '{{ moment }} UTC' {%- endmacro %}

{% macro duckdb__zoned_literal(moment) -%} timestamptz '{{ moment }}+00' {%- endmacro %}

{# Partitions a piece has at most: `meta.window_piece` of the model, or var `window_piece`. #}
{% macro window_piece() -%}
    {%- set length = config.get('meta', {}).get('window_piece', var('window_piece', 90)) -%}
    {%- if length is not integer or length < 1 -%}
        {%- do exceptions.raise_compiler_error(
            this ~ ": window_piece is " ~ length ~ ": expected how many days, or hours of a table partitioned by hour, "
            ~ "one commit may write, such as 90"
        ) -%}
    {%- endif -%}
    {{ return(length) }}
{%- endmacro %}

{#
    Before the statement that makes a table from a long window: it writes all partitions at once, of which Trino allows
    100. Later windows come in pieces; the property holds for the connection, where it only raises a limit.
#}
{% macro window_writers() -%}
    {%- set window = event_window() -%}
    {%- set partition = window_partition() -%}
    {%- if window and partition in ['hour', 'day', 'value'] and config.get('incremental_strategy') == 'replace_window' -%}
        {%- set unit = modules.datetime.timedelta(hours=1 if partition == 'hour' else 24) -%}
        {%- set needed = (window[1] - window[0]) // unit + 2 -%}
        {%- if needed > 90 -%}
            set session {{ target.database }}.max_partitions_per_writer = {{ needed }};
        {%- endif -%}
    {%- endif -%}
{%- endmacro %}

{# How the model's event_time partitions the table: hour, day, month, year, value, or none. #}
{% macro window_partition() -%}
    {%- set partitioning = (config.get('properties') or {}).get('partitioning') or '' -%}
    {%- set column = '"?' ~ modules.re.escape(config.get('event_time') or '') ~ '"?' -%}
    {%- set found = modules.re.search(
        "'(?:(hour|day|month|year)\\(" ~ column ~ "\\)|" ~ column ~ ")'", partitioning, modules.re.IGNORECASE
    ) -%}
    {{ return((found.group(1) or 'value') | lower if found else none) }}
{%- endmacro %}

{#
    As post-hook of a model with replace_window: rewrites the window without the delete files its MERGE left, where
    whole partitions of the table lie in it; of the others upkeep takes care. After the strategy, not in it: the
    model's query in run results and in Trino's UI stays the MERGE.
#}
{% macro compact_window() -%}
    {{ adapter.dispatch('compact_window')() }}
{%- endmacro %}

{% macro default__compact_window() -%}{%- endmacro %}

{% macro trino__compact_window() -%}
    {%- set window = event_window() -%}
    {%- set partition = window_partition() -%}
    {%- if execute and window and partition and is_incremental() -%}
        {%- set event_time = config.get('event_time') | lower -%}
        {%- set column = adapter.get_columns_in_relation(this) | selectattr('name', 'equalto', event_time) | first -%}
        {%- set window = window_of(column, window) -%}
        {%- set start, end = whole_partitions(window[0], window[1], partition) -%}
        {%- if start < end -%}
            alter table {{ this }} execute optimize
            where {{ column.quoted }} >= {{ time_literal(start, column) }}
                and {{ column.quoted }} < {{ time_literal(end, column) }}
        {%- endif -%}
    {%- endif -%}
{%- endmacro %}

{# The part of [start, end) that is whole partitions: Trino optimizes nothing smaller. #}
{% macro whole_partitions(start, end, partition) -%}
    {%- if partition == 'value' -%}
        {{ return((start, end)) }}
    {%- endif -%}
    {%- set first = partition_start(start, partition) -%}
    {%- if first != start -%}
        {%- set longest = {'hour': 1, 'day': 24, 'month': 31 * 24, 'year': 366 * 24}[partition] -%}
        {%- set first = partition_start(first + modules.datetime.timedelta(hours=longest), partition) -%}
    {%- endif -%}
    {{ return((first, partition_start(end, partition))) }}
{%- endmacro %}

{% macro partition_start(moment, partition) -%}
    {%- set start = moment.replace(minute=0, second=0, microsecond=0) -%}
    {%- set start = start.replace(hour=0) if partition != 'hour' else start -%}
    {%- set start = start.replace(day=1) if partition in ['month', 'year'] else start -%}
    {{ return(start.replace(month=1) if partition == 'year' else start) }}
{%- endmacro %}
