{#
    Whatever an ingest tool wrote (text with or without an offset, timestamp, timestamp with time zone) as a
    timestamp in UTC without zone. Text without an offset is UTC. What cannot be read fails the model.
#}
{% macro parse_timestamp(column) -%}
    {{ return(adapter.dispatch('parse_timestamp', 'lakehouse')(column)) }}
{%- endmacro %}

{% macro duckdb__parse_timestamp(column) -%}
    cast(cast({{ column }} as varchar) as timestamp)
{%- endmacro %}

{% macro trino__parse_timestamp(column) -%}
    cast(
        at_timezone(
            cast(
                regexp_replace(cast({{ column }} as varchar), '^(\d{4}-\d{2}-\d{2})T', '$1 ')
                as timestamp(6) with time zone
            ),
            'UTC'
        ) as timestamp(6)
    )
{%- endmacro %}
