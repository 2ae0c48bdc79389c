{#
    The current rows of an Airbyte table: of its latest generation, the newest version of each key, without the
    keys whose newest version is a CDC delete. Columns a connector does not write are left out of the rule.
#}
{% macro dedupe(relation, key) -%}
    {{ return(adapter.dispatch('dedupe', 'lakehouse')(relation, key)) }}
{%- endmacro %}

{% macro default__dedupe(relation, key) -%}
    {%- set columns = raw_columns(relation) -%}
    {%- set newest_first = [] -%}
    {%- for column in ['_airbyte_extracted_at'] + cdc_position_columns() + ['_airbyte_raw_id'] if column in columns -%}
        {%- do newest_first.append(column ~ ' desc nulls last') -%}
    {%- endfor -%}
    select *
    from (
        select
            *,
            row_number() over (
                partition by {{ key if key is string else key | join(', ') }}
                order by {{ newest_first | join(', ') }}
            ) as _version_rank
        from {{ relation }}
        {%- if '_airbyte_generation_id' in columns %}
        where coalesce(_airbyte_generation_id, 0) = (
            select max(coalesce(_airbyte_generation_id, 0)) from {{ relation }}
        )
        {%- endif %}
    ) as versions
    where
        _version_rank = 1
        {%- if '_ab_cdc_deleted_at' in columns %}
        and _ab_cdc_deleted_at is null
        {%- endif %}
{%- endmacro %}

{# Where a change stood in the source's log, by connector: Postgres and SQL Server, SQL Server, MySQL, MySQL. #}
{% macro cdc_position_columns() %}
    {{ return(['_ab_cdc_lsn', '_ab_cdc_event_serial_no', '_ab_cdc_log_file', '_ab_cdc_log_pos', '_ab_cdc_cursor']) }}
{% endmacro %}

{#
    The columns the raw table really has. Where there is no table to ask (parsing, compiling without introspection,
    linting, and unit tests, whose input is a fixture), those Airbyte always writes. A unit test overrides this macro.
#}
{% macro raw_columns(relation) %}
    {% set columns = [] %}
    {% if execute and flags.INTROSPECT and not relation.is_cte %}
        {% set columns = adapter.get_columns_in_relation(relation) | map(attribute='name') | map('lower') | list %}
    {% endif %}
    {{ return(columns or ['_airbyte_raw_id', '_airbyte_extracted_at', '_airbyte_generation_id']) }}
{% endmacro %}
