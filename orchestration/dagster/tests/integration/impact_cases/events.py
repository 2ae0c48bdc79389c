"""A project on PostgreSQL: ephemeral models, a union, windows, versions, a snapshot, a seed, an incremental model."""

from .base import Case

FILES = {
    "dbt_project.yml": """
name: events
version: "1.0"
profile: events
flags: {send_anonymous_usage_stats: false}
models: {events: {+materialized: table}}
""",
    "profiles.yml": """
events:
  target: prod
  outputs:
    prod:
      type: postgres
      host: postgres.invalid
      port: 5432
      user: dbt
      password: none
      dbname: lake
      schema: app
      threads: 2
""",
    "macros/clean.sql": "{% macro clean(column) %}trim({{ column }}){% endmacro %}",
    "seeds/countries.csv": "code,name,region\nDE,Germany,Europe\nMX,Mexico,America\n",
    "models/sources.yml": """
sources:
  - name: app
    schema: raw
    tables: [{name: web_events}, {name: app_events}, {name: users}]
""",
    "models/eph_web.sql": """
{{ config(materialized='ephemeral') }}
select id, user_id, ts as happened_at, kind, url as place from {{ source('app', 'web_events') }}
""",
    "models/eph_app.sql": """
{{ config(materialized='ephemeral') }}
select id, user_id, ts as happened_at, kind, screen as place from {{ source('app', 'app_events') }}
""",
    "models/events.sql": """
{{ config(materialized='incremental', unique_key='id') }}
select 'web' as channel, id, user_id, happened_at, kind, place
from {{ ref('eph_web') }}
{% if is_incremental() %}where happened_at > (select max(happened_at) from {{ this }}){% endif %}
union all
select 'app', id, user_id, happened_at, kind, place
from {{ ref('eph_app') }}
{% if is_incremental() %}where happened_at > (select max(happened_at) from {{ this }}){% endif %}
""",
    "models/sessions.sql": """
with ordered as (
    select *, lag(happened_at) over (partition by user_id order by happened_at) as previous_at
    from {{ ref('events') }}
),
marked as (
    select
        *,
        case when previous_at is null or happened_at - previous_at > interval '30 minutes' then 1 else 0 end as is_new
    from ordered
),
numbered as (
    select *, sum(is_new) over (partition by user_id order by happened_at) as session_number
    from marked
)
select
    user_id,
    session_number,
    min(happened_at) as started_at,
    max(happened_at) as ended_at,
    count(*) as events,
    max(place) as last_place
from numbered
group by user_id, session_number
""",
    "models/users_v1.sql": """
select id as user_id, {{ clean('email') }} as email, country from {{ source('app', 'users') }}
""",
    "models/users_v2.sql": """
select
    u.id as user_id,
    lower({{ clean('u.email') }}) as email,
    u.country as country_code,
    c.name as country_name,
    c.region,
    u.plan
from {{ source('app', 'users') }} as u
left join {{ ref('countries') }} as c on u.country = c.code
""",
    "models/activity.sql": """
select
    u.country_name,
    u.plan,
    date_trunc('day', s.started_at) as day,
    count(distinct s.user_id) as users,
    count(*) as sessions
from {{ ref('sessions') }} as s
inner join {{ ref('users', v=2) }} as u on s.user_id = u.user_id
group by 1, 2, 3
""",
    "models/legacy_users.sql": """
select user_id, cast(email as varchar(255)) as email, country from {{ ref('users', v=1) }}
""",
    "models/top_users.sql": """
select user_id, events, rank() over (order by events desc) as position
from (select user_id, sum(events) as events from {{ ref('sessions') }} group by user_id) as totals
""",
    "models/plans.sql": "select distinct plan from {{ ref('users', v=2) }}",
    "models/models.yml": """
models:
  - name: users
    latest_version: 2
    versions: [{v: 1}, {v: 2}]
snapshots:
  - name: users_snapshot
    relation: ref('users', v=2)
    config: {strategy: check, unique_key: user_id, check_cols: [plan, email]}
exposures:
  - name: activity_board
    type: dashboard
    owner: {name: Cleo}
    depends_on: [ref('activity')]
  - name: crm
    type: application
    owner: {name: Dan, email: dan@events.example}
    depends_on: [ref('legacy_users'), ref('top_users')]
""",
    "tests/sessions_end_after_start.sql": "select * from {{ ref('sessions') }} where ended_at < started_at",
}

USERS, SESSIONS, ACTIVITY = "models/users_v2.sql", "models/sessions.sql", "models/activity.sql"
V1, V2 = "users.v1", "users.v2"
BOTH = "exposure:activity_board exposure:crm"
BELOW_SESSIONS = f"activity.* top_users.* {BOTH}"
BELOW_USERS = "activity.* plans.* users_snapshot.* exposure:activity_board"

CASES = [
    Case(
        "an ephemeral model cuts off parameters",
        {"models/eph_web.sql": ("url as place", "split_part(url, '?', 1) as place")},
        "events.place sessions.last_place",
        "eph_web.place:changed",
    ),
    Case(
        "a column of an ephemeral model is removed",
        {"models/eph_app.sql": (" kind,", "")},
        "events.kind",
        "eph_app.kind:removed",
        "eph_app.kind",
    ),
    Case(
        "duplicates of a union are removed",
        {"models/events.sql": ("union all", "union")},
        f"sessions.* {BELOW_SESSIONS}",
        "events.*",
    ),
    Case(
        "an incremental build reads events again",
        {"models/events.sql": ("where happened_at > (", "where happened_at >= (")},
        f"sessions.* {BELOW_SESSIONS}",
        "events.*",
    ),
    Case(
        "sessions are longer",
        {SESSIONS: ("30 minutes", "60 minutes")},
        BELOW_SESSIONS,
        "sessions.* sessions.session_number:changed",
    ),
    Case(
        "a column that nothing reads is renamed",
        {SESSIONS: ("as last_place", "as final_place")},
        "",
        "sessions.last_place:renamed",
    ),
    Case(
        "a column of a version is removed that a group, a DISTINCT and a snapshot read",
        {USERS: ("c.region,\n    u.plan", "c.region")},
        "activity.* plans.* users_snapshot.plan exposure:activity_board",
        f"{V2}.plan:removed",
        f"{V2}.plan users_snapshot.plan",
    ),
    Case(
        "users without a country are left out",
        {USERS: ("left join", "inner join")},
        BELOW_USERS,
        f"{V2}.*",
    ),
    Case(
        "an old version changes",
        {"models/users_v1.sql": ("{{ clean('email') }} as", "lower({{ clean('email') }}) as")},
        "legacy_users.email exposure:crm",
        f"{V1}.email:changed",
    ),
    Case(
        "an old version is removed, and its reader uses the new one",
        {
            "models/users_v1.sql": None,
            "models/models.yml": ("versions: [{v: 1}, {v: 2}]", "versions: [{v: 2}]"),
            "models/legacy_users.sql": "select user_id, cast(email as varchar(255)) as email, country_code as country "
            "from {{ ref('users', v=2) }}",
        },
        "exposure:crm",
        f"{V1}.* legacy_users.* legacy_users.user_id:changed legacy_users.email:changed legacy_users.country:changed",
    ),
    Case(
        "a seed gets a row",
        {"seeds/countries.csv": ("MX,Mexico,America\n", "MX,Mexico,America\nFR,France,Europe\n")},
        f"{V2}.* {BELOW_USERS}",
        "countries.*",
    ),
    Case(
        "a seed loses a column",
        {"seeds/countries.csv": "code,name\nDE,Germany\nMX,Mexico\n"},
        f"{V2}.* {BELOW_USERS}",
        "countries.* countries.region:removed",
        "countries.region",
    ),
    Case(
        "a column that only the snapshot has is in upper case",
        {USERS: ("    c.region,", "    upper(c.region) as region,")},
        "users_snapshot.region",
        f"{V2}.region:changed",
    ),
    Case(
        "a number on a dashboard is another one",
        {ACTIVITY: ("count(*) as sessions", "sum(s.events) as sessions")},
        "exposure:activity_board",
        "activity.sessions:changed",
    ),
    Case(
        "a column on a dashboard is renamed",
        {ACTIVITY: (" as day,", " as date_day,")},
        "exposure:activity_board",
        "activity.day:renamed",
        "activity.day",
    ),
    Case(
        "a snapshot compares fewer columns",
        {"models/models.yml": ("check_cols: [plan, email]", "check_cols: [plan]")},
        "",
        "users_snapshot.*",
    ),
    Case(
        "a list is limited",
        {"models/top_users.sql": ("as totals\n", "as totals\norder by events desc\nlimit 100\n")},
        "exposure:crm",
        "top_users.*",
    ),
    Case(
        "a rank has no gaps",
        {"models/top_users.sql": ("rank() over", "dense_rank() over")},
        "exposure:crm",
        "top_users.position:changed",
    ),
    Case(
        "a macro of both versions changes",
        {"macros/clean.sql": ("trim(", "ltrim(")},
        "legacy_users.email users_snapshot.email exposure:crm",
        f"{V1}.email:changed {V2}.email:changed",
    ),
    Case(
        "a text that an exposure reads gets shorter",
        {"models/legacy_users.sql": ("varchar(255)", "varchar(20)")},
        "exposure:crm",
        "legacy_users.email:retyped legacy_users.email:changed",
        "legacy_users.email",
    ),
]
