{# A scalar inside a JSON string as text: json_get('address', 'city'), json_get('payload', 'buyer.email'). #}
{% macro json_get(column, path) -%}
    {{ return(adapter.dispatch('json_get', 'lakehouse')(column, path)) }}
{%- endmacro %}

{% macro duckdb__json_get(column, path) -%}
    json_extract_string({{ column }}, '$.{{ path }}')
{%- endmacro %}

{% macro trino__json_get(column, path) -%}
    json_extract_scalar({{ column }}, '$.{{ path }}')
{%- endmacro %}
