{#
    Models that are partitioned by the values of a column (`partition: {by: region}` in the contract), or by time and a
    column (`{grain: daily, by: region}`, for which `replace_window.sql` replaces a window of the values). A run replaces
    exactly the rows of its values by what the model returns, with incremental_strategy='replace_window'. Dagster's runs
    set LAKEHOUSE_PARTITION_VALUES, such as {"by": "region", "values": ["IT", "DE"]}. On Trino a run is one MERGE, so
    one Iceberg commit; on DuckDB and PostgreSQL it is one transaction. docs/time.md says how to use it.
#}

{#
    For the model's inputs: true for the rows of this run's values. `type` is the expression's: varchar, or an integer
    type, date or uuid. A build without values fails: it would otherwise read all of them.
#}
{% macro in_partition(column, type='varchar') -%}
    {%- set run = partition_values() if execute else none -%}
    {%- set only_reads = ['compile', 'generate', 'list', 'show', 'test'] -%}
    {%- if not execute or (not run and invocation_args_dict.get('which') in only_reads) -%}
        true
    {%- elif not run -%}
        {%- do exceptions.raise_compiler_error(
            this ~ ": in_partition('" ~ column ~ "') has no values. Launch a partition in Dagster, or set "
            ~ 'LAKEHOUSE_PARTITION_VALUES to JSON such as {"by": "region", "values": ["IT"]}'
        ) -%}
    {%- elif should_full_refresh() and not rebuilds_history() -%}
        {%- do exceptions.raise_compiler_error(
            this ~ ": --full-refresh with some values would leave nothing but their rows: leave one of the two out"
        ) -%}
    {%- else -%}
        {{ column }} in ({{ value_literals(run['values'], {'name': column, 'dtype': type}) }})
    {%- endif -%}
{%- endmacro %}

{# The column and the values of this run, or none. #}
{% macro partition_values() -%}
    {%- set text = env_var('LAKEHOUSE_PARTITION_VALUES', '') -%}
    {%- if not text -%}
        {{ return(none) }}
    {%- endif -%}
    {%- set run = fromjson(text, none) -%}
    {%- if run is not mapping or not run.get('by') or not run.get('values') or run['values'] is string -%}
        {%- do exceptions.raise_compiler_error(
            'LAKEHOUSE_PARTITION_VALUES is ' ~ text ~ ': expected JSON such as {"by": "region", "values": ["IT"]}'
        ) -%}
    {%- endif -%}
    {{ return(run) }}
{%- endmacro %}

{# The values as literals that a column of this type is compared with. #}
{% macro value_literals(values, column) -%}
    {%- set type = column.dtype | lower -%}
    {%- set is_text = 'char' in type or type in ['text', 'string'] -%}
    {%- if not is_text and not modules.re.fullmatch('u?(tiny|small|big|huge)?int(eger)?[248]?|date|uuid', type) -%}
        {%- do exceptions.raise_compiler_error(
            this ~ ': ' ~ column.name ~ ' is ' ~ type ~ ', and partitions are values of text, integers, dates or uuids'
        ) -%}
    {%- endif -%}
    {%- set literals = [] -%}
    {%- for value in values -%}
        {%- set literal = "'" ~ value | string | replace("'", "''") ~ "'" -%}
        {%- do literals.append(literal if is_text else 'cast(' ~ literal ~ ' as ' ~ type ~ ')') -%}
    {%- endfor -%}
    {{ return(literals | join(', ')) }}
{%- endmacro %}

{# What `replace_window` does in a run of values. #}
{% macro replace_values(arg_dict, run) -%}
    {%- set columns = arg_dict['dest_columns'] -%}
    {%- set by = partition_column(arg_dict, run) -%}
    {{ return(adapter.dispatch('replace_values_sql')(
        arg_dict['target_relation'], arg_dict['temp_relation'], columns, by, value_literals(run['values'], by)
    )) }}
{%- endmacro %}

{# The column of the table that a run has values of. #}
{% macro partition_column(arg_dict, run) -%}
    {%- set columns = arg_dict['dest_columns'] -%}
    {%- set found = [] -%}
    {%- for column in columns if column.name | lower == run['by'] | lower -%}
        {%- do found.append(column) -%}
    {%- endfor -%}
    {%- if not found -%}
        {%- do adapter.drop_relation(arg_dict['temp_relation']) -%}
        {%- do exceptions.raise_compiler_error(
            this ~ ": it is partitioned by '" ~ run['by'] ~ "', which is not one of its columns: "
            ~ columns | map(attribute='name') | join(', ')
        ) -%}
    {%- endif -%}
    {{ return(found[0]) }}
{%- endmacro %}

{# `literals` are the values, as `value_literals` returns them. #}
{% macro trino__replace_values_sql(target, source, columns, by, literals) -%}
    {{ marker_merge(
        target, source, columns, by, {by.name: value_in_partition(by, literals)}, 'true',
        'stored.' ~ by.quoted ~ ' in (' ~ literals ~ ')'
    ) }}
{%- endmacro %}

{# For adapters that run both statements in one transaction. #}
{% macro default__replace_values_sql(target, source, columns, by, literals) -%}
    {%- set names = columns | map(attribute='quoted') | join(', ') -%}
    delete from {{ target }}
    where {{ by.quoted }} in ({{ literals }});
    insert into {{ target }} ({{ names }})
    select
        {%- for column in columns %}
        {{ value_in_partition(by, literals) if column.name == by.name else column.quoted }}
        {{- ',' if not loop.last }}
        {%- endfor %}
    from {{ source }}
{%- endmacro %}

{# The row's value; a row with another value than those of the run, or without one, fails the statement. #}
{% macro value_in_partition(by, literals) -%}
    {%- set whose = this ~ ': ' ~ by.name ~ ' of a row is ' -%}
    {%- set hint = ", which is not a value of this run: filter the inputs with in_partition('" ~ by.name ~ "')" -%}
    case
            when {{ by.quoted }} in ({{ literals }}) then {{ by.quoted }}
            else {{ adapter.dispatch('failure')(
                "'" ~ whose | replace("'", "''") ~ "' || coalesce(cast(" ~ by.quoted ~ " as varchar), 'null') || '"
                ~ hint | replace("'", "''") ~ "'",
                by.dtype
            ) }}
        end as {{ by.quoted }}
{%- endmacro %}
