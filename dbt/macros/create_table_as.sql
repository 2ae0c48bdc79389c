{#
    Tables with an enforced contract in one Iceberg commit. dbt-trino's own macro creates them empty, with the
    contract's columns, and inserts: two commits, between which readers see an empty table. Here the columns are cast
    to the contract's types, and a null in a `not_null` column fails the statement: the old table stays whole.
    What remains dbt-trino's: properties, comments, grants, and everything without a contract.

    `create table as` cannot declare NOT NULL, so Iceberg's columns are optional. The rows an incremental model adds
    later come through a temporary view, which guards them in the same way.
#}

{% macro trino__create_table_as(temporary, relation, sql, on_exists=none) -%}
    {{ window_writers() if not temporary }}
    create{{ ' or replace' if on_exists == 'replace' }} table{{ ' if not exists' if on_exists == 'skip' }} {{ relation }}
    {{ comment(model.get('description')) }}
    {{ properties(temporary) }}
    as (
        {%- if config.get('contract').enforced %}
        {{ get_assert_columns_equivalent(sql) }}
        {{ select_as_contracted(sql) }}
        {%- else %}
        {{ sql }}
        {%- endif %}
    );
{%- endmacro %}

{% macro trino__create_view_as(relation, sql) -%}
    {%- set view_security = config.get('view_security', 'definer') -%}
    {%- if view_security not in ['definer', 'invoker'] -%}
        {%- do exceptions.raise_compiler_error(
            "view_security of " ~ this ~ " is '" ~ view_security ~ "': expected definer or invoker"
        ) -%}
    {%- endif -%}
    {%- set contracted = config.get('contract').enforced -%}
    create or replace view {{ relation }}
    {%- if contracted %}
    {{ get_assert_columns_equivalent(sql) }}
    {%- endif %}
    security {{ view_security }}
    as
    {# A view that is the model itself promises names and types only, as everywhere in dbt. #}
    {{ select_as_contracted(sql) if contracted and relation.identifier != this.identifier else sql }};
{%- endmacro %}

{# The contract's columns, in its order and types; no null where it says not_null. #}
{% macro select_as_contracted(sql) -%}
    {#- dbt warns here of constraints that Trino does not know. -#}
    {%- do adapter.render_raw_columns_constraints(raw_columns=model['columns']) -%}
    {%- do adapter.render_raw_model_constraints(raw_constraints=model['constraints']) -%}
    select
        {%- for column in model['columns'].values() %}
        {{ contracted_column(column, this) }}{{ ',' if not loop.last }}
        {%- endfor %}
    from (
        {{ sql }}
    ) as model_subq
{%- endmacro %}

{% macro contracted_column(column, relation) -%}
    {%- set name = adapter.quote(column['name']) if column.get('quote') else column['name'] -%}
    {%- set type = iceberg_type(column['data_type']) -%}
    {%- set value = 'cast(' ~ name ~ ' as ' ~ type ~ ')' -%}
    {%- if column['constraints'] | selectattr('type', 'equalto', 'not_null') | list -%}
        {%- set message = relation ~ ': null in ' ~ column['name'] ~ ', which the contract has as not_null' -%}
        coalesce({{ value }}, cast(fail('{{ message | replace("'", "''") }}') as {{ type }})) as {{ name }}
    {%- else -%}
        {{ value }} as {{ name }}
    {%- endif -%}
{%- endmacro %}

{# Iceberg keeps text without a length and times in microseconds: casting to less would cut what an insert keeps. #}
{% macro iceberg_type(type) -%}
    {%- if modules.re.match('(var)?char\\b', type, modules.re.IGNORECASE) -%}
        varchar
    {%- else -%}
        {{ modules.re.sub('^(time(?:stamp)?)(?: *\\( *[0-9]+ *\\))?(?= |$)', '\\1(6)', type.strip(), flags=modules.re.IGNORECASE) }}
    {%- endif -%}
{%- endmacro %}
